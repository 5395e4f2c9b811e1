// Runs one ONNX model in a browser, on ONNX Runtime Web. The methods are those of tfjs.mjs.
//
// `ort` is given: what onnxruntime-web exports, with env.wasm set up.

import {describeAdapter, describeCpu} from './backends.mjs';
import {dequantize, quantize} from './quantize.mjs';

export class OnnxRunner {
  /** @param {string} backend 'wasm' or 'webgpu'. */
  constructor(ort, backend) {
    this.ort = ort;
    this.backend = backend;
    this.loadNs = 0;
  }

  /** @param {Uint8Array} bytes of the file. */
  async load(bytes, feed, {signature, threads = 1}) {
    const start = performance.now();
    this.session = await this.#open(bytes);
    this.loadNs = Math.round((performance.now() - start) * 1e6);
    this.signature = signature;
    this.asked = threads;
    this.names = signature.outputs.map((spec) => spec.native);
    const present = [...this.session.inputNames, ...this.session.outputNames].sort();
    const expected = [...signature.inputs, ...signature.outputs].map((spec) => spec.native).sort();
    if (String(present) !== String(expected)) {
      throw new Error(`the file has ${present.join(', ')}; expected ${expected.join(', ')}`);
    }
    this.bind(feed);
    await this.invoke();
  }

  async #open(bytes) {
    const options = {executionProviders: [this.backend], logSeverityLevel: 3};
    if (this.backend === 'wasm') return this.ort.InferenceSession.create(bytes, options);
    // Else what the GPU cannot run goes to the CPU without a word.
    options.extra = {session: {disable_cpu_ep_fallback: '1'}};
    try {
      return await this.ort.InferenceSession.create(bytes, options);
    } catch (error) {
      if (!/fallback to CPU EP/.test(error?.message)) throw error;
      throw new Error(`a part of this model does not run on ${this.backend}`, {cause: error});
    }
  }

  get runtime() {
    const {versions, wasm, webgpu} = this.ort.env;
    const backend =
      this.backend === 'webgpu'
        ? describeAdapter(webgpu.device.adapterInfo)
        : describeCpu(this.backend, {asked: this.asked, ran: wasm.numThreads});
    return {name: 'onnxruntime-web', version: versions.web, backend};
  }

  bind(feed) {
    const entries = this.signature.inputs.map((spec) => {
      if (!feed[spec.name]) throw new Error(`no input named '${spec.name}' was given`);
      const {shape} = feed[spec.name];
      return [spec.native, new this.ort.Tensor(spec.dtype, quantize(feed[spec.name], spec), shape)];
    });
    this.feed = Object.fromEntries(entries);
  }

  /** Returns when the results are in the page's memory. */
  async invoke() {
    this.results = await this.session.run(this.feed, this.names);
  }

  read() {
    const entries = this.signature.outputs.map((spec) => {
      const {type, dims, data} = this.results[spec.native];
      return [spec.name, dequantize({dtype: type, shape: [...dims], data}, spec)];
    });
    return Object.fromEntries(entries);
  }

  tidy() {} // results are the page's own arrays
}
