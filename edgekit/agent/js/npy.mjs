// NumPy's .npy format, version 1 (numpy/lib/format.py): magic, header, values in C order.

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // "\x93NUMPY"
const ALIGNMENT = 64;

// Read as what TensorFlow.js takes: float32, int32 and bool.
const READERS = {
  '<f4': (buffer) => ['float32', new Float32Array(buffer)],
  '<f8': (buffer) => ['float32', Float32Array.from(new Float64Array(buffer))],
  '<i4': (buffer) => ['int32', new Int32Array(buffer)],
  '<i8': (buffer) => ['int32', Int32Array.from(new BigInt64Array(buffer), toInt32)],
  '|u1': (buffer) => ['int32', Int32Array.from(new Uint8Array(buffer))],
  '|i1': (buffer) => ['int32', Int32Array.from(new Int8Array(buffer))],
  '|b1': (buffer) => ['bool', new Uint8Array(buffer)],
};
const WRITTEN = {float32: '<f4', int32: '<i4', int64: '<i8', uint8: '|u1', int8: '|i1', bool: '|b1'};

function toInt32(value) {
  if (value !== BigInt.asIntN(32, value)) {
    throw new Error(`the input value ${value} does not fit into 32-bit integers`);
  }
  return Number(value);
}

/** @returns {{dtype: string, shape: number[], data: TypedArray}} from the bytes of a .npy file. */
export function decodeNpy(bytes) {
  if (!MAGIC.every((byte, i) => bytes[i] === byte)) {
    throw new Error('not a .npy file');
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6] > 1; // from version 2 on the header's length takes 4 bytes
  const start = wide ? 12 : 10;
  const end = start + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder('latin1').decode(bytes.subarray(start, end));
  const descr = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1].split(',').filter((d) => d.trim()).map(Number);
  if (!READERS[descr] || !shape || /'fortran_order':\s*True/.test(header)) {
    throw new Error(`unsupported .npy header: ${header.trim()}`);
  }
  // A copy, so that the values start on a multiple of their size. Not bytes.slice(): Node's
  // Buffer does not copy there.
  const values = bytes.buffer.slice(bytes.byteOffset + end, bytes.byteOffset + bytes.byteLength);
  const [dtype, data] = READERS[descr](values);
  return {dtype, shape, data};
}

/** @returns {Uint8Array} the bytes of a .npy file. */
export function encodeNpy({dtype, shape, data}) {
  const dims = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const text = `{'descr': '${WRITTEN[dtype]}', 'fortran_order': False, 'shape': (${dims}), }`;
  const fixed = MAGIC.length + 4;
  const padding = ALIGNMENT - ((fixed + text.length + 1) % ALIGNMENT);
  const header = new TextEncoder().encode(text + ' '.repeat(padding) + '\n');
  const values = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const bytes = new Uint8Array(fixed + header.length + values.length);
  bytes.set([...MAGIC, 1, 0, header.length & 0xff, header.length >> 8]);
  bytes.set(header, fixed);
  bytes.set(values, fixed + header.length);
  return bytes;
}
