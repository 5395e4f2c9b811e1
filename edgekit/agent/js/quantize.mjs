// Real numbers and a tensor's own type, as edgekit/agent/runners.py converts them: by `scale` and
// `zero_point` where the file takes or gives quantized integers, else to the same numbers.

const ARRAYS = {
  float32: Float32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
};
const LIMITS = {int8: [-128, 127], uint8: [0, 255], int16: [-32768, 32767], uint16: [0, 65535]};

/** @returns {TypedArray} round(x / scale) + zero_point, clipped, where `spec` has a scale. */
export function quantize({data, dtype: given}, {name, dtype, scale, zero_point: zero}) {
  const Wanted = ARRAYS[dtype];
  if (!Wanted) throw new Error(`input '${name}' is ${dtype}, which this agent cannot give`);
  if (scale !== null && scale !== undefined) {
    const [least, most] = LIMITS[dtype];
    return Wanted.from(data, (x) => Math.min(most, Math.max(least, roundHalfEven(x / scale) + (zero ?? 0))));
  }
  if (given === dtype) return data;
  if (dtype === 'int64') return Wanted.from(data, (x) => BigInt(Math.trunc(x)));
  return Wanted.from(data);
}

/** @returns {{dtype, shape, data}} (q - zero_point) * scale in float32, where `spec` has a scale. */
export function dequantize({data, dtype, shape}, {scale, zero_point: zero}) {
  if (scale === null || scale === undefined) return {dtype, shape, data};
  const step = Math.fround(scale);
  return {dtype: 'float32', shape, data: Float32Array.from(data, (q) => (q - (zero ?? 0)) * step)};
}

/** As NumPy rounds: halves to the even neighbour. */
function roundHalfEven(x) {
  const rounded = Math.round(x);
  return Math.abs(x % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
