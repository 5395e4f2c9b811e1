// Runs one TFLite model in a browser, on LiteRT.js. The methods are those of tfjs.mjs.
//
// `litert` is given: what @litertjs/core exports, after loadLiteRt().

import {describeAdapter} from './backends.mjs';
import {quantize} from './quantize.mjs';

const TYPES = ['float32', 'int32'];

export class LitertRunner {
  /** @param {string} backend 'wasm' or 'webgpu', @param {string} version of @litertjs/core. */
  constructor(litert, backend, version) {
    this.litert = litert;
    this.backend = backend;
    this.version = version;
    this.loadNs = 0;
    this.inputs = {};
    this.results = {};
    this.past = []; // results of earlier invocations, still to be deleted
  }

  /** @param {Uint8Array} bytes of the file. */
  async load(bytes, feed, {signature, threads = 1}) {
    checkSignature(signature);
    const start = performance.now();
    this.model = await this.litert.loadAndCompile(bytes, {
      accelerator: this.backend,
      cpuOptions: {numThreads: threads},
      gpuOptions: {precision: 'fp32'},
    });
    this.loadNs = Math.round((performance.now() - start) * 1e6);
    const {accelerator} = this.model.options;
    if (accelerator !== this.backend || (this.backend !== 'wasm' && !this.model.isFullyAccelerated)) {
      throw new Error(`a part of this model does not run on ${this.backend}`);
    }
    this.signature = signature;
    this.#checkFile();
    this.bind(feed);
    await this.invoke();
  }

  #checkFile() {
    const details = [...this.model.getInputDetails(), ...this.model.getOutputDetails()];
    const present = details.map(({name}) => name).sort();
    const {inputs, outputs} = this.signature;
    const expected = [...inputs, ...outputs].map((spec) => spec.native).sort();
    if (String(present) !== String(expected)) {
      throw new Error(`the file has ${present.join(', ')}; expected ${expected.join(', ')}`);
    }
  }

  get runtime() {
    const gpu = this.backend === 'webgpu';
    return {
      name: 'litert.js',
      version: this.version,
      backend: gpu ? describeAdapter(this.litert.getWebGpuDevice().adapterInfo) : this.backend,
    };
  }

  bind(feed) {
    deleteAll(Object.values(this.inputs));
    const entries = this.signature.inputs.map((spec) => {
      if (!feed[spec.name]) throw new Error(`no input named '${spec.name}' was given`);
      const {shape} = feed[spec.name];
      return [spec.native, new this.litert.Tensor(quantize(feed[spec.name], spec), shape)];
    });
    this.inputs = Object.fromEntries(entries);
  }

  /** Returns when the results are in the runtime's memory; those of a GPU in the page's. */
  async invoke() {
    this.past.push(...Object.values(this.results));
    this.results = await this.model.run(this.inputs);
    if (this.backend === 'webgpu') {
      const entries = Object.entries(this.results);
      this.values = Object.fromEntries(
        await Promise.all(entries.map(async ([name, tensor]) => [name, await tensor.data()])),
      );
    }
  }

  read() {
    const entries = this.signature.outputs.map((spec) => {
      const tensor = this.results[spec.native];
      const data = this.backend === 'webgpu' ? this.values[spec.native] : tensor.toTypedArray();
      return [spec.name, {dtype: spec.dtype, shape: [...tensor.type.layout.dimensions], data}];
    });
    return Object.fromEntries(entries);
  }

  tidy() {
    deleteAll(this.past);
    this.past = [];
  }
}

/** What LiteRT.js cannot do, said before it says it in its own words. */
function checkSignature({inputs, outputs}) {
  for (const {name, dtype, shape} of [...inputs, ...outputs]) {
    if (!TYPES.includes(dtype)) {
      const advice = dtype === 'int8' ? ': quantize without --int8-io' : '';
      throw new Error(`'${name}' is ${dtype}; LiteRT.js has float32 and int32 only${advice}`);
    }
    if (shape.includes(null)) {
      const advice = shape[0] === null ? ': export with --batch 1' : '; here it is in the Keras model itself';
      throw new Error(`'${name}' has a free dimension; LiteRT.js runs fixed shapes only${advice}`);
    }
  }
}

function deleteAll(tensors) {
  for (const tensor of tensors) tensor.delete();
}
