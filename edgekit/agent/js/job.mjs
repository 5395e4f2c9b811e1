// One Job (edgekit/agent/protocol.py) from inputs to outputs, in Node and in a page alike. What
// differs between the two is a `host`:
//   read(file)          the bytes of an input
//   open(job)           its runner, with the runtime loaded
//   model(job)          what that runner loads: bytes, or an io handler of TensorFlow.js
//   write(outputs, job) keep the outputs; where they are, by Keras name
//   machine()           where it runs
//   meter()             started before a measurement; called after it: memory and how busy it was
//   showRows, showWarmUp, showSamples   optional: see rows.mjs and timing.mjs

import {decodeNpy} from './npy.mjs';
import {profile} from './profiling.mjs';
import {firstBatch, runRows} from './rows.mjs';
import {measure} from './timing.mjs';

const PROTOCOL_VERSION = 1;

/** @returns the JobResult. */
export async function execute(job, host) {
  if (job.version !== PROTOCOL_VERSION) {
    throw new Error(`protocol version ${job.version}, this agent speaks ${PROTOCOL_VERSION}`);
  }
  if (!['run', 'time', 'profile'].includes(job.action)) throw new Error(`unknown action ${job.action}`);
  const runner = await host.open(job);
  const feed = await readFeed(job.inputs, host);
  await runner.load(await host.model(job), firstBatch(job.signature, feed), job);
  if (runner.fallback) console.error(`not on the first backend: ${runner.fallback}`);
  const result = {
    runtime: runner.runtime,
    machine: await host.machine(),
    outputs: {},
    timing: null,
    profile: null,
    version: PROTOCOL_VERSION,
  };
  if (job.action === 'run') {
    result.outputs = await host.write(
      await runRows(runner, job.signature, feed, host.showRows),
      job,
    );
  } else if (job.action === 'profile') {
    result.profile = await profile(runner, job.seconds ?? 1);
  } else {
    result.timing = await timeFirstRow(runner, job.seconds ?? 1, host);
  }
  return result;
}

async function readFeed(inputs, host) {
  const entries = Object.entries(inputs).map(async ([name, file]) => [name, decodeNpy(await host.read(file))]);
  return Object.fromEntries(await Promise.all(entries));
}

async function timeFirstRow(runner, seconds, host) {
  await host.showWarmUp?.();
  const read = host.meter();
  const measured = await measure(runner, seconds, host.showSamples);
  return {
    ...measured,
    warmup_invocations: measured.warmup_invocations + 1, // the trial run
    load_ns: runner.loadNs,
    model_memory_bytes: null, // JavaScript engines grow when they like
    ...read(),
  };
}
