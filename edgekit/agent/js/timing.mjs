// How an invocation is timed: the rules of edgekit/agent/timing.py, for Node and browsers. Only a
// warm-up window lasts longer here: JavaScript is compiled while it runs, in steps, and a model was
// seen to become 10 times faster after its first stable-looking 15 invocations.

const WINDOW = 5; // invocations per warm-up window, at least
const WINDOWS = 5; // as many windows fit into the time of the warm-up
const STABLE_WITHIN = 0.05; // two windows in a row with medians this close end the warm-up
const SHORTEST_SAMPLE_NS = 50_000;
const MOST_SAMPLES = 1000;

/** Time runner.invoke() for about `seconds`, after a warm-up of at most half as long. */
export async function measure(runner, seconds) {
  const {count, stable, median: typical} = await warmUp(runner, seconds / 2);
  const loops = Math.max(1, Math.round(SHORTEST_SAMPLE_NS / typical));
  const samples = [];
  const deadline = performance.now() + seconds * 1e3;
  while (samples.length < 5 || performance.now() < deadline) {
    samples.push(await sample(runner, loops));
  }
  // Evenly spaced in time, which leaves the percentiles unbiased.
  const step = Math.max(1, Math.ceil(samples.length / MOST_SAMPLES));
  const kept = samples.filter((_, i) => i % step === 0).map((s) => Math.round(s * 10) / 10);
  return {samples_ns: kept, loops, warmup_invocations: count, stable};
}

/** Nanoseconds of one invocation, averaged over `loops`. */
async function sample(runner, loops) {
  const start = performance.now();
  for (let i = 0; i < loops; i++) await runner.invoke();
  const elapsed = ((performance.now() - start) * 1e6) / loops;
  runner.tidy();
  return elapsed;
}

async function warmUp(runner, seconds) {
  const start = performance.now();
  const elapsed = () => (performance.now() - start) / 1e3;
  let previous = 0;
  for (let count = 0, windows = 1; ; windows++) {
    const window = [];
    while (window.length < WINDOW || elapsed() < (windows * seconds) / WINDOWS) {
      window.push(await sample(runner, 1));
      if (elapsed() > seconds && count + window.length >= 3) break;
    }
    count += window.length;
    const middle = Math.max(1, median(window));
    if (Math.abs(middle - previous) <= STABLE_WITHIN * middle) {
      return {count, stable: true, median: middle};
    }
    if (elapsed() > seconds) return {count, stable: false, median: middle};
    previous = middle;
  }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
