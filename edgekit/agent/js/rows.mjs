// All rows of a feed through ONE runner: the rules of edgekit/agent/rows.py.

const SINGLE_ROWS = 8; // a model of free batch runs its first rows one by one,
const CHUNK = 32; // the rest in chunks: both must work

/**
 * @param show awaited after each chunk with the rows done and all rows: a page repaints then.
 * @returns {{name: {dtype, shape, data}}} outputs by Keras name, as many rows as the feed has.
 */
export async function runRows(runner, signature, feed, show) {
  const rows = Object.values(feed)[0].shape[0];
  const batch = signature.inputs[0].shape[0];
  const parts = [];
  for (let start = 0; start < rows; ) {
    const size = batch ?? (start < SINGLE_ROWS ? 1 : CHUNK);
    const stop = Math.min(start + size, rows);
    runner.bind(mapValues(feed, (array) => takeRows(array, start, stop, batch ?? stop - start)));
    await runner.invoke();
    parts.push(mapValues(runner.read(), (array) => takeRows(array, 0, stop - start)));
    start = stop;
    await show?.(stop, rows);
  }
  return mapValues(parts[0], (_, name) => concatenate(parts.map((part) => part[name])));
}

/** The first batch that runRows() and a measurement run. */
export function firstBatch(signature, feed) {
  return mapValues(feed, (array) => takeRows(array, 0, 1, signature.inputs[0].shape[0] ?? 1));
}

/** Rows start..stop, the last one repeated until there are `count`. */
function takeRows({dtype, shape, data}, start, stop, count = stop - start) {
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  const taken = new data.constructor(count * size);
  taken.set(data.subarray(start * size, stop * size));
  for (let row = stop - start; row < count; row++) {
    taken.set(data.subarray((stop - 1) * size, stop * size), row * size);
  }
  return {dtype, shape: [count, ...shape.slice(1)], data: taken};
}

function concatenate(parts) {
  const {dtype, shape, data} = parts[0];
  const whole = new data.constructor(parts.reduce((sum, part) => sum + part.data.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part.data, offset);
    offset += part.data.length;
  }
  return {dtype, shape: [parts.reduce((sum, p) => sum + p.shape[0], 0), ...shape.slice(1)], data: whole};
}

function mapValues(object, change) {
  return Object.fromEntries(Object.entries(object).map(([k, v]) => [k, change(v, k)]));
}
