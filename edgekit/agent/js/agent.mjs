// `node agent.mjs PACKAGES`: one Job as JSON on stdin, one JobResult as JSON on stdout, as
// protocol.py says. PACKAGES is the folder that holds node_modules.
// Exit code 1 with {"error": {"type", "message"}} when TensorFlow.js refuses the model.

import {mkdir, readFile, writeFile} from 'node:fs/promises';
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import os from 'node:os';
import path from 'node:path';

import {execute} from './job.mjs';
import {encodeNpy} from './npy.mjs';
import {TfjsRunner, modelHandler} from './tfjs.mjs';

// TensorFlow.js logs to the console; stdout carries the answer and nothing else.
console.log = console.info = console.warn = console.error;

const host = {
  read: (file) => readFile(file),
  async open(job) {
    if (job.format !== 'tfjs') throw new Error(`this agent runs tfjs, not ${job.format}`);
    return new TfjsRunner(loadTensorflow(), ['wasm', 'cpu']);
  },
  model: (job) => modelHandler((name) => readFile(path.join(job.artifact, name))),
  write: writeOutputs,
  machine: describeMachine,
  meter() {
    const busy = busyMeter();
    return () => ({peak_memory_bytes: peakMemory(), busy_fraction: busy()});
  },
};

function loadTensorflow() {
  // require(), as the packages are not where this file is, and must share one tfjs-core.
  const require = createRequire(path.resolve(process.argv[2], 'package.json'));
  const tf = {...require('@tensorflow/tfjs-core'), ...require('@tensorflow/tfjs-converter')};
  require('@tensorflow/tfjs-backend-cpu');
  const wasm = require('@tensorflow/tfjs-backend-wasm');
  wasm.setWasmPaths(path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm')) + path.sep);
  tf.env().set('PROD', true); // else it reports every kernel that both backends register
  return {tf, wasm};
}

async function writeOutputs(outputs, {out: folder}) {
  await mkdir(folder, {recursive: true});
  const entries = Object.entries(outputs).map(async ([name, array], i) => {
    const file = path.join(folder, `${i}.npy`);
    await writeFile(file, encodeNpy(array));
    return [name, file];
  });
  return Object.fromEntries(await Promise.all(entries));
}

function peakMemory() {
  // maxRSS survives exec on Linux and so counts the parent's memory too.
  const peak = /^VmHWM:\s+(\d+) kB/m.exec(readText('/proc/self/status'))?.[1];
  return (peak ? Number(peak) : process.resourceUsage().maxRSS) * 1024;
}

/** @returns a function: share of the machine's CPU time that other processes used since. */
function busyMeter() {
  const now = () => {
    const times = os.cpus().map((cpu) => cpu.times);
    const total = times.reduce((sum, t) => sum + t.user + t.nice + t.sys + t.idle + t.irq, 0);
    const idle = times.reduce((sum, t) => sum + t.idle, 0);
    const own = process.cpuUsage();
    return [total, total - idle, (own.user + own.system) / 1e3];
  };
  const start = now();
  return () => {
    const [total, busy, own] = now().map((value, i) => value - start[i]);
    return total > 0 ? Math.round((Math.max(0, busy - own) / total) * 1e4) / 1e4 : null;
  };
}

function describeMachine() {
  const arch = {x64: 'x86_64', arm64: 'aarch64', ia32: 'i686'}[os.arch()] ?? os.arch();
  const governor = readText('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor').trim();
  const name = /^PRETTY_NAME="?([^"\n]*)/m.exec(readText('/etc/os-release'))?.[1];
  return {
    cpu: os.cpus()[0]?.model.trim() || arch,
    arch,
    cores: os.cpus().length,
    memory_bytes: os.totalmem(),
    os: `${name ?? os.type()}, ${os.release()}`,
    governor: governor || null,
  };
}

function readText(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

async function readStdin() {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

try {
  const result = await execute(JSON.parse(await readStdin()), host);
  process.stdout.write(JSON.stringify(result) + '\n');
} catch (error) {
  const answer = {error: {type: error?.name ?? 'Error', message: String(error?.message ?? error)}};
  process.stdout.write(JSON.stringify(answer) + '\n');
  process.exitCode = 1;
}
