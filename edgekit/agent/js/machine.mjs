// What a browser tells of itself and its machine.

const ARCHITECTURES = {x8664: 'x86_64', arm64: 'aarch64', x8632: 'i686', arm32: 'armv7l'};
const NAMED = [
  [/Firefox\/([\d.]+)/, 'Firefox'],
  [/FxiOS\/([\d.]+)/, 'Firefox for iOS'],
  [/CriOS\/([\d.]+)/, 'Chrome for iOS'],
  [/SamsungBrowser\/([\d.]+)/, 'Samsung Internet'],
  [/Edg\/([\d.]+)/, 'Edge'],
  [/Chrome\/([\d.]+)/, 'Chrome'],
  [/Version\/([\d.]+).*Safari/, 'Safari'],
];

/** @returns {Machine} with the browser as a part of `os`; memory 0 where it is not told. */
export async function describeMachine() {
  const known = await knownValues();
  const [, inside = ''] = /\(([^)]*)\)/.exec(navigator.userAgent) ?? [];
  const words = inside.split('; ').filter((word) => !['X11', 'K'].includes(word)); // K: not told
  const arch = ARCHITECTURES[`${known.architecture}${known.bitness}`] ?? guessArchitecture();
  const system = known.platform ? `${known.platform} ${known.platformVersion}`.trim() : words.join(', ');
  return {
    cpu: known.model || (/Android/.test(inside) && words.at(-1)) || navigator.platform || arch,
    arch,
    cores: navigator.hardwareConcurrency ?? 1,
    memory_bytes: (navigator.deviceMemory ?? 0) * 2 ** 30, // rounded, and never above 8 GB or so
    os: `${system}, ${await describeBrowser()}`,
    governor: null,
  };
}

function guessArchitecture() {
  if (/iPhone|iPad|aarch64|armv8/.test(navigator.platform)) return 'aarch64';
  return /x86_64|Win64/.test(navigator.platform) ? 'x86_64' : 'unknown';
}

/** @returns "Chromium 156.0.8078.79". */
export async function describeBrowser() {
  const brands = (await knownValues()).fullVersionList ?? [];
  const named = brands.filter(({brand}) => !/not.*brand/i.test(brand));
  const best = named.find(({brand}) => brand !== 'Chromium') ?? named[0];
  if (best) return `${best.brand} ${best.version}`;
  const found = NAMED.find(([pattern]) => pattern.test(navigator.userAgent));
  return found ? `${found[1]} ${found[0].exec(navigator.userAgent)[1]}` : 'an unknown browser';
}

/** What Chromium tells when it is asked, in a secure context. */
async function knownValues() {
  const asked = ['architecture', 'bitness', 'fullVersionList', 'model', 'platformVersion'];
  return (await navigator.userAgentData?.getHighEntropyValues(asked)) ?? {};
}
