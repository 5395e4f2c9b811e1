// Runs one TensorFlow.js graph model, in Node and in a browser alike: the formats' runners (onnx.mjs,
// litert.mjs) have the same methods.
//
// `tf` is given, not imported: Node has it from npm, a page from script tags. It holds what
// @tensorflow/tfjs-core and tfjs-converter export, with the backends already registered.
// A feed is {name: {dtype, shape, data}} by Keras name, as npy.mjs reads it.

import {describeAdapter, describeCpu, describeWebgl} from './backends.mjs';

export class TfjsRunner {
  /**
   * @param {{tf: object, wasm?: object}} modules `wasm`: exports of tfjs-backend-wasm.
   * @param {string[]} backends to try, best first.
   */
  constructor({tf, wasm}, backends) {
    this.tf = tf;
    this.wasm = wasm;
    this.backends = backends;
    this.backend = null; // the one that really runs the model
    this.fallback = null; // why it is not the first of `backends`
    this.loadNs = 0;
    this.inputs = {};
    this.results = [];
    this.past = []; // results of earlier invocations, still to be disposed of
  }

  /**
   * Load the model on the first backend that can run it, which a trial run with `feed` tells.
   * @param source URL of model.json, or an io handler with a method load().
   */
  async load(source, feed, {threads = 1} = {}) {
    this.wasm?.setThreadsCount(threads);
    this.asked = threads;
    const failures = [];
    for (const backend of this.backends) {
      try {
        await this.#loadOn(backend, source);
        this.bind(feed);
        await this.#trial();
        this.fallback = failures.length ? failures.join('; ') : null;
        return;
      } catch (error) {
        const where = this.backends.length > 1 ? `${backend}: ` : '';
        failures.push(`${where}${error?.message ?? error}`);
        this.dispose();
      }
    }
    throw new Error(failures.join('; '));
  }

  async #loadOn(backend, source) {
    // setBackend() prefers to answer false, or to stay where it was, over throwing.
    if (!(await this.tf.setBackend(backend)) || this.tf.getBackend() !== backend) {
      throw new Error('this backend does not start here');
    }
    this.backend = backend;
    const start = performance.now();
    this.model = await this.tf.loadGraphModel(source);
    this.loadNs = Math.round((performance.now() - start) * 1e6);
    this.outputs = Object.entries(this.model.modelSignature.outputs);
  }

  /** What really runs the model. */
  get runtime() {
    return {name: 'tfjs', version: this.tf.version_core, backend: this.#backendName()};
  }

  #backendName() {
    if (this.backend === 'webgl') return describeWebgl(this.tf.backend().gpgpu.gl, this.tf.env());
    if (this.backend === 'webgpu') return describeAdapter(this.tf.backend().device.adapterInfo);
    // In Node there is one (tfjs issue 3830), in a browser at most one for two cores.
    const ran = this.backend === 'wasm' ? this.wasm.getThreadsCount() : 1;
    return describeCpu(this.backend, {asked: this.asked, ran});
  }

  async #trial() {
    this.dynamic = false;
    try {
      await this.invoke();
    } catch (error) {
      // Loops and operations whose result has an unknown size run asynchronously only.
      if (!/executeAsync/.test(error.message)) throw error;
      this.dynamic = true;
      await this.invoke();
    }
  }

  /** Take over the inputs of the next invocations. */
  bind(feed) {
    this.release();
    const signature = this.model.modelSignature.inputs;
    for (const [name, {name: native, dtype}] of Object.entries(signature)) {
      if (!feed[name]) throw new Error(`no input named '${name}' was given`);
      const {data, shape, dtype: given} = feed[name];
      const wanted = {DT_FLOAT: 'float32', DT_INT32: 'int32', DT_BOOL: 'bool'}[dtype];
      if (given !== wanted) throw new Error(`input '${name}' is ${given}, the model takes ${wanted}`);
      this.inputs[native] = this.tf.tensor(data, shape, wanted);
    }
  }

  /** One invocation: returns when the results exist. This is what is timed. */
  async invoke() {
    this.past.push(...this.results);
    const names = this.outputs.map(([, {name}]) => name);
    const results = this.dynamic
      ? await this.model.executeAsync(this.inputs, names)
      : this.model.execute(this.inputs, names);
    this.results = Array.isArray(results) ? results : [results];
    this.values = await Promise.all(this.results.map((tensor) => tensor.data()));
  }

  /**
   * One invocation, with its calls of kernels: {type, name, ns}. Which operator of the model calls a
   * kernel is not told, so that its name is the shape that comes out.
   */
  async profile() {
    const {kernels} = await this.tf.profile(() => this.invoke());
    // "fusedConv2d__op" is only the function around a kernel, which has an entry of its own.
    const real = kernels.filter(({name}) => !name.endsWith('__op'));
    return real.map(({name: type, outputShapes, kernelTimeMs}) => {
      // A GPU without a clock for its queries answers with an object that says so.
      if (!Number.isFinite(kernelTimeMs)) throw new Error('this backend tells no times of kernels');
      return {type, name: describeShapes(outputShapes), ns: kernelTimeMs * 1e6};
    });
  }

  /** Results of the last invocation: {name: {dtype, shape, data}} by Keras name. */
  read() {
    return Object.fromEntries(
      this.outputs.map(([name], i) => {
        const {dtype, shape} = this.results[i];
        return [name, {dtype, shape: [...shape], data: this.values[i]}];
      }),
    );
  }

  /** Free the results of past invocations, which invoke() leaves to the time between two. */
  tidy() {
    disposeAll(this.past);
    this.past = [];
  }

  /** Free inputs and results. */
  release() {
    disposeAll([...Object.values(this.inputs), ...this.results, ...this.past]);
    this.inputs = {};
    this.results = [];
    this.past = [];
  }

  dispose() {
    this.release();
    this.model?.dispose();
    this.model = null;
  }
}

function describeShapes(shapes) {
  const texts = shapes.map((shape) => `[${shape.join(', ')}]`);
  const alike = texts.length > 1 && texts.every((text) => text === texts[0]);
  return `→ ${alike ? `${texts.length} × ${texts[0]}` : texts.join(', ')}`;
}

function disposeAll(tensors) {
  // An output may be an input, or stand for two outputs.
  for (const tensor of tensors) if (!tensor.isDisposed) tensor.dispose();
}

/** An io handler of the graph model whose files `read(name)` gives as bytes. */
export function modelHandler(read) {
  return {
    async load() {
      const model = JSON.parse(new TextDecoder().decode(await read('model.json')));
      const groups = model.weightsManifest;
      const shards = await Promise.all(groups.flatMap((group) => group.paths).map(read));
      return {
        format: model.format,
        modelTopology: model.modelTopology,
        signature: model.signature,
        weightSpecs: groups.flatMap((group) => group.weights),
        weightData: joined(shards),
      };
    },
  };
}

function joined(shards) {
  const bytes = new Uint8Array(shards.reduce((sum, shard) => sum + shard.length, 0));
  let offset = 0;
  for (const shard of shards) {
    bytes.set(shard, offset);
    offset += shard.length;
  }
  return bytes.buffer;
}
