// Log-mel frames of a recording. The twin of log_mel.py, which has the formulas: the same fields,
// the same steps in the same order, the same errors. For browsers and Node.js, without packages.

const FIELDS = ['sample_rate', 'seconds', 'frame', 'hop', 'bands', 'low_hz', 'high_hz', 'floor'];
const WHOLE = ['sample_rate', 'frame', 'hop', 'bands'];
const LOUDEST = 2; // beyond it floats are no samples from -1 to 1

/**
 * @param {Int16Array | Float32Array | Float64Array} samples one recording at the description's
 *   sample_rate; floats are from -1 to 1. The end of a longer one is cut off, a shorter one is
 *   continued with zeros.
 * @param {object} description the fields of LogMel, by the same names
 * @returns {Float32Array} frames x bands, frame after frame
 */
export function logMel(samples, description) {
  const {frame, hop, bands, floor} = description;
  const weights = triangles(check(description));
  const taken = recording(samples, length(description));
  const window = Float64Array.from({length: frame}, (_, n) => 0.5 - 0.5 * turn(n / frame).cos);
  const turns = Array.from({length: frame / 2}, (_, k) => turn(-k / frame));
  const frames = Math.floor((taken.length - frame) / hop) + 1;
  const features = new Float32Array(frames * bands);
  for (let t = 0; t < frames; t++) {
    const real = window.map((w, n) => w * taken[t * hop + n]);
    const imaginary = new Float64Array(frame);
    transform(real, imaginary, turns);
    weights.forEach(({first, row}, band) => {
      let heard = 0;
      row.forEach((weight, i) => {
        const k = first + i;
        heard += weight * ((real[k] ** 2 + imaginary[k] ** 2) / frame);
      });
      features[t * bands + band] = Math.log(heard + floor);
    });
  }
  return features;
}

function check(description) {
  for (const name of [...FIELDS, ...Object.keys(description)]) {
    const value = description[name];
    const kind = WHOLE.includes(name) ? 'whole number' : 'number';
    if (!FIELDS.includes(name)) refuse(`there is no field ${name}`, 'leave it out');
    if (!(Number.isFinite(value) && value >= 0) || (WHOLE.includes(name) && value % 1)) {
      refuse(`${name} must be a ${kind} from 0 on`, 'correct it');
    }
  }
  const {sample_rate, frame, hop, bands, low_hz, high_hz, floor} = description;
  const isPower = frame >= 2 && Number.isInteger(Math.log2(frame));
  if (!isPower) refuse('frame must be a power of two', 'take 256');
  if (hop < 1 || hop > frame) refuse('hop must be from 1 to frame', 'take half of frame');
  if (floor === 0) refuse('floor must be above 0: silence has no logarithm', 'take 1e-6');
  if (bands === 0) refuse('bands must be above 0', 'take 40');
  if (length(description) < frame) refuse('seconds must hold at least one frame', 'take 1');
  if (low_hz >= high_hz) refuse('low_hz must be below high_hz', 'take 20 for low_hz');
  if (2 * high_hz > sample_rate) {
    refuse(
      'high_hz must not be above half of sample_rate, where nothing can be heard',
      'take half of sample_rate for high_hz',
    );
  }
  return description;
}

function refuse(what, hint) {
  throw new RangeError(`log-mel frames: ${what}; ${hint}`);
}

function length({seconds, sample_rate}) {
  return Math.floor(seconds * sample_rate + 0.5);
}

/** The first `count` samples from -1 to 1, and zeros where there are not as many. */
function recording(samples, count) {
  const is16 = samples instanceof Int16Array;
  if (!(is16 || samples instanceof Float32Array || samples instanceof Float64Array)) {
    const type = samples?.constructor?.name ?? typeof samples;
    throw new TypeError(
      `samples of type ${type} cannot be used; give them as Int16Array, or as floats from -1 to 1`,
    );
  }
  if (samples.length === 0) throw new RangeError('there are no samples; give one recording');
  const taken = new Float64Array(count);
  taken.set(samples.subarray(0, count));
  if (is16) taken.forEach((value, n) => (taken[n] = value / 32768));
  if (!taken.every((value) => Math.abs(value) <= LOUDEST)) {
    throw new RangeError(
      'samples are not from -1 to 1; divide those of 16 bits by 32768, or give them as ' +
        'Int16Array; replace NaN by 0',
    );
  }
  return taken;
}

/** Of each band its first bin and the weights from there on: what is 0 is left out. */
function triangles({sample_rate, frame, bands, low_hz, high_hz}) {
  const [low, high] = [low_hz, high_hz].map((hz) => 2595 * Math.log10(1 + hz / 700));
  const edges = Array.from({length: bands + 2}, (_, i) => {
    const mel = low + ((high - low) * i) / (bands + 1);
    return 700 * (10 ** (mel / 2595) - 1);
  });
  return Array.from({length: bands}, (_, band) => {
    const [left, middle, right] = edges.slice(band, band + 3);
    const all = Array.from({length: frame / 2 + 1}, (_, k) => {
      const hz = (k * sample_rate) / frame;
      return Math.max(0, Math.min((hz - left) / (middle - left), (right - hz) / (right - middle)));
    });
    const [first, last] = [all.findIndex((w) => w > 0), all.findLastIndex((w) => w > 0)];
    if (first < 0) {
      refuse(
        `band ${band} lies between two frequencies of a frame and would hear nothing`,
        'take fewer bands or a longer frame',
      );
    }
    return {first, row: all.slice(first, last + 1)};
  });
}

function turn(part) {
  return {cos: Math.cos(2 * Math.PI * part), sin: Math.sin(2 * Math.PI * part)};
}

/** The discrete Fourier transform in place: Cooley and Tukey's, of radix 2. */
function transform(real, imaginary, turns) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1; // j counts like i, but with its bits in reverse
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    for (let start = 0; start < size; start += 2 * half) {
      for (let k = 0; k < half; k++) {
        const {cos, sin} = turns[(k * size) / (2 * half)];
        const [a, b] = [start + k, start + k + half];
        const re = real[b] * cos - imaginary[b] * sin;
        const im = real[b] * sin + imaginary[b] * cos;
        [real[a], real[b]] = [real[a] + re, real[a] - re];
        [imaginary[a], imaginary[b]] = [imaginary[a] + im, imaginary[a] - im];
      }
    }
  }
}
