// How an invocation is timed: the rules of edgekit/agent/timing.py, for Node and browsers. Two
// things differ. A warm-up window lasts longer: JavaScript is compiled while it runs, in steps, and
// a model was seen to become 10 times faster after its first stable-looking 15 invocations. And a
// browser's clock is coarse, from 5 microseconds to a millisecond, so it is measured too.

const WINDOW = 5; // samples per warm-up window, at least
const WINDOWS = 5; // as many windows fit into the time of the warm-up
const STABLE_WITHIN = 0.05; // two windows in a row with medians this close end the warm-up
const WARM_UP_S = 0.5; // that a warm-up may take, or half of the measurement if that is longer
const SHORTEST_SAMPLE_NS = 50_000;
const SHORTEST_SAMPLE_TICKS = 100; // one step of the clock is at most 1 % of a sample
const MOST_GROWTH = 100; // of a sample's invocations per window: the clock may have seen nothing
const MOST_SAMPLES = 1000;
const SHOWN_EVERY_MS = 250;

/**
 * Time runner.invoke() for about `seconds`, after a warm-up until it is stable.
 * @param show awaited a few times a second with the samples so far, in nanoseconds, and the share of
 *   the time that is over: a page repaints then. The invocation after it is not counted.
 */
export async function measure(runner, seconds, show) {
  const shortest = Math.max(SHORTEST_SAMPLE_NS, clockStep() * SHORTEST_SAMPLE_TICKS);
  const {count, stable, loops} = await warmUp(runner, Math.max(seconds / 2, WARM_UP_S), shortest);
  const samples = [];
  const deadline = performance.now() + seconds * 1e3;
  let shown = performance.now();
  while (samples.length < 5 || performance.now() < deadline) {
    samples.push(await sample(runner, loops));
    if (show && performance.now() - shown > SHOWN_EVERY_MS) {
      await show(samples, 1 - (deadline - performance.now()) / (seconds * 1e3));
      await sample(runner, 1);
      shown = performance.now();
    }
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

/** Invoke until stable; and find the loops that make a sample last `shortest` nanoseconds. */
async function warmUp(runner, seconds, shortest) {
  const start = performance.now();
  const elapsed = () => (performance.now() - start) / 1e3;
  let previous = 0;
  for (let count = 0, loops = 1, windows = 1; ; windows++) {
    const window = [];
    while (window.length < WINDOW || elapsed() < (windows * seconds) / WINDOWS) {
      window.push(await sample(runner, loops));
      if (elapsed() > seconds && count + window.length >= 3) break;
    }
    count += window.length * loops;
    const middle = median(window);
    const seen = middle * loops > shortest / 2; // else it is mostly the clock's steps
    const stable = seen && Math.abs(middle - previous) <= STABLE_WITHIN * middle;
    loops = Math.min(Math.max(1, Math.round(shortest / middle)), loops * MOST_GROWTH);
    if (stable || elapsed() > seconds) return {count, stable, loops};
    previous = middle;
  }
}

/** The clock's smallest step in nanoseconds, among a few. */
export function clockStep() {
  let smallest = Infinity;
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    smallest = Math.min(smallest, now - start);
  }
  return smallest * 1e6;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
