// How the time of one invocation is shared among a model's operators, as its runtime tells it: the
// rules of edgekit/agent/profiling.py. runner.profile() is one invocation, with its calls as
// [{type, name, ns}] in their order.

import {clockStep} from './timing.mjs';

const WARMUP = 10;
const FEWEST = 5;
const MOST = 200;

/** Profile runner for about `seconds`. */
export async function profile(runner, seconds) {
  if (!runner.profile) throw new Error(`${runner.runtime.name} tells no times of operators here`);
  const invocations = [];
  let deadline = Infinity;
  while (
    invocations.length < WARMUP + FEWEST ||
    (invocations.length < WARMUP + MOST && performance.now() < deadline)
  ) {
    if (invocations.length === WARMUP) deadline = performance.now() + seconds * 1e3;
    const start = performance.now();
    const calls = await runner.profile();
    invocations.push({ns: (performance.now() - start) * 1e6, calls});
    runner.tidy();
  }
  return summarize(invocations.slice(WARMUP));
}

/** Mean over the middle half of the invocations, by their time. */
function summarize(invocations) {
  const ranked = invocations.sort((a, b) => a.ns - b.ns);
  const outside = ranked.length >> 2;
  const middle = ranked.slice(outside, ranked.length - outside);
  const operators = new Map();
  for (const {calls} of middle) {
    for (const {type, name, ns} of calls) {
      const key = `${type} ${name}`;
      const sum = operators.get(key) ?? {type, name, calls: 0, ns: 0};
      operators.set(key, {...sum, calls: sum.calls + 1, ns: sum.ns + ns});
    }
  }
  const mean = (sum) => Math.round((sum / middle.length) * 10) / 10;
  return {
    operators: [...operators.values()].map(({type, name, calls, ns}) => ({
      type,
      name,
      calls: mean(calls),
      ns: mean(ns),
    })),
    invocations: middle.length,
    invocation_ns: mean(middle.reduce((sum, {ns}) => sum + ns, 0)),
    resolution_ns: Math.round(clockStep()),
  };
}
