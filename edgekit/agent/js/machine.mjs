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

const NO_MODEL = /^rv:|^Mobile$|^Tablet$|^Android|^Linux|^U$|^K$|^wv$/; // K: not told

/** @returns {Machine} with the browser as a part of `os`; memory 0 where it is not told. */
export async function describeMachine() {
  const known = await knownValues();
  const [, inside = ''] = /\(([^)]*)\)/.exec(navigator.userAgent) ?? [];
  const words = inside.replace(/ Build\/.*/, '').split('; ');
  const arch = ARCHITECTURES[`${known.architecture}${known.bitness}`] ?? guessArchitecture(inside);
  const system = known.platform ? `${known.platform} ${known.platformVersion}`.trim() : nameSystem(words, arch);
  const android = /Android/.test(inside) && words.filter((word) => !NO_MODEL.test(word)).at(-1);
  return {
    cpu: known.model || android || nameApple() || arch,
    arch,
    cores: navigator.hardwareConcurrency ?? 1,
    memory_bytes: (navigator.deviceMemory ?? 0) * 2 ** 30, // rounded, and never above 8 GB or so
    os: `${system}, ${await describeBrowser()}`,
    governor: null,
  };
}

function nameSystem(words, arch) {
  const android = words.find((word) => /^Android/.test(word));
  if (android) return words.includes('K') ? 'Android' : android; // with K, the version is made up
  const ios = /OS ([\d_]+) like Mac/.exec(words.at(-1))?.[1];
  if (ios) return `iOS ${ios.replaceAll('_', '.')}`;
  if (nameApple() === 'iPad') return 'iPadOS';
  const told = words.filter((word) => !/^X11$|^rv:|^Macintosh$|^Win64$|^x64$/.test(word));
  return told.join(', ').replace(` ${arch}`, '');
}

/** iPhone, iPad or Mac; an iPad says that it is a Mac, none of which has a touch screen. */
function nameApple() {
  if (/^Mac/.test(navigator.platform)) return navigator.maxTouchPoints > 1 ? 'iPad' : 'Mac';
  return /^iP(hone|ad|od)/.exec(navigator.platform)?.[0];
}

function guessArchitecture(inside) {
  if (/iPhone|iPad/.test(nameApple()) || /aarch64|armv8/.test(navigator.platform)) return 'aarch64';
  return /x86_64|Win64/.test(`${navigator.platform} ${inside}`) ? 'x86_64' : 'unknown';
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
