// Carries out one job in a frame of its own, which page.mjs opens and throws away: a job finds no
// runtime, no compiled code and no memory of the one before, as in a process of its own.

import {execute} from './job.mjs';
import {LitertRunner} from './litert.mjs';
import {describeMachine} from './machine.mjs';
import {encodeNpy} from './npy.mjs';
import {OnnxRunner} from './onnx.mjs';
import {TfjsRunner, modelHandler} from './tfjs.mjs';

const PACKAGES = new URL('../packages/', import.meta.url);
const JOB = new URL(`../jobs/${location.hash.slice(1)}/`, import.meta.url);

// One invocation of an Identity node: the runtime's own start is not a part of loading a model.
const IDENTITY = Uint8Array.from(
  atob('CAc6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0='),
  (char) => char.charCodeAt(0),
);

const SHOWN_EVERY_MS = 100;
let told = 0;

const OPENERS = {tfjs: openTfjs, onnx: openOnnx, tflite: openLitert};

const host = {
  read: (file) => fetchBytes(new URL(file, JOB)),
  async open(job) {
    if (job.threads > 1 && !crossOriginIsolated) {
      throw new Error('threads need a page from localhost (a phone: adb reverse): run with one thread');
    }
    await checkGpu(job.backend);
    return OPENERS[job.format](job);
  },
  async model(job) {
    // Fetched before: the network is not a part of loading.
    if (job.format !== 'tfjs') return fetchBytes(new URL('model', JOB));
    const artifacts = await modelHandler((name) => fetchBytes(new URL(`model/${name}`, JOB))).load();
    return {load: async () => artifacts};
  },
  write: postOutputs,
  machine: describeMachine,
  meter: () => () => ({peak_memory_bytes: null, busy_fraction: null}), // browsers do not tell
  async showRows(done, all) {
    if (performance.now() - told > SHOWN_EVERY_MS) await tell({done, all});
  },
  async showWarmUp() {
    await tell({warming: true}, 50); // time for a frame: the warm-up leaves none
  },
  async showSamples(samples, share) {
    await tell({samples: samples.slice(), done: share, all: 1});
  },
};

/** In one way for all runtimes, whose own words for it differ. */
async function checkGpu(backend) {
  if (backend === 'webgpu' && !isSecureContext) {
    throw new Error('WebGPU needs a page from localhost (a phone: adb reverse)');
  }
  if (backend === 'webgpu' && !(await navigator.gpu?.requestAdapter())) {
    throw new Error('this browser has no WebGPU adapter here');
  }
  if (backend === 'webgl' && !document.createElement('canvas').getContext('webgl2')) {
    throw new Error('this browser has no WebGL 2 here');
  }
}

async function openTfjs({backend}) {
  await loadScript('@tensorflow/tfjs-core/dist/tf-core.es2017.min.js');
  await loadScript('@tensorflow/tfjs-converter/dist/tf-converter.es2017.min.js');
  await loadScript(`@tensorflow/tfjs-backend-${backend}/dist/tf-backend-${backend}.es2017.min.js`);
  const {tf} = globalThis;
  tf.wasm?.setWasmPaths(String(new URL('@tensorflow/tfjs-backend-wasm/dist/', PACKAGES)));
  return new TfjsRunner({tf, wasm: tf.wasm}, [backend]);
}

async function openOnnx({backend, threads}) {
  const folder = new URL('onnxruntime-web/dist/', PACKAGES);
  const ort = await import(new URL(`ort.${backend}.min.mjs`, folder));
  ort.env.wasm.wasmPaths = String(folder);
  ort.env.wasm.numThreads = threads;
  await ort.InferenceSession.create(IDENTITY, {executionProviders: [backend], logSeverityLevel: 3});
  return new OnnxRunner(ort, backend);
}

async function openLitert({backend, threads, versions}) {
  const folder = new URL('@litertjs/core/', PACKAGES);
  const litert = await import(new URL('dist/index.js', folder));
  await litert.loadLiteRt(String(new URL('wasm/', folder)), {threads: threads > 1});
  return new LitertRunner(litert, backend, versions['@litertjs/core']);
}

function loadScript(path) {
  const script = document.createElement('script');
  script.src = new URL(path, PACKAGES);
  return new Promise((resolve, reject) => {
    script.onload = resolve;
    script.onerror = () => reject(new Error(`cannot load ${path}`));
    document.head.append(script);
  });
}

async function fetchBytes(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`cannot read ${url.pathname.split('/').at(-1)}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function postOutputs(outputs, {signature}) {
  const names = signature.outputs.map((spec) => spec.name);
  for (const [name, array] of Object.entries(outputs)) {
    if (!names.includes(name)) throw new Error(`the file has an output '${name}' that nobody expects`);
    const url = new URL(`outputs/${names.indexOf(name)}`, JOB);
    const taken = await fetch(url, {method: 'POST', body: encodeNpy(array)});
    if (!taken.ok) throw new Error(`cannot send the output '${name}': ${taken.status}`);
  }
  return {};
}

/** Let the page show how far this is: it can paint while this waits. */
async function tell(news, wait = 0) {
  parent.postMessage({job: location.hash.slice(1), ...news}, location.origin);
  await new Promise((resolve) => setTimeout(resolve, wait));
  told = performance.now();
}

/** What was thrown, in words: C++ exceptions of a runtime come as bare numbers. */
function describe(error) {
  if (typeof error === 'number') return {type: 'Error', message: 'the runtime threw a C++ exception'};
  const message = String(error?.message ?? error);
  return {type: error?.name ?? 'Error', message};
}

// The page sends the answer on, after this frame is gone.
let answer;
try {
  const job = JSON.parse(new TextDecoder().decode(await fetchBytes(new URL('job', JOB))));
  answer = await execute(job, host);
} catch (error) {
  console.error(error);
  answer = {error: describe(error)};
}
await tell({answer});
