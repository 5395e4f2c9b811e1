// The backend that really ran, in words. A software renderer computes the right numbers at a speed that
// says nothing of any GPU, so it is always named as such; and no more threads are claimed than ran.

const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|software|basic render|\bwarp\b/i;

export function describeCpu(backend, {asked, ran}) {
  return asked > ran ? `${backend} (${ran} thread${ran > 1 ? 's' : ''})` : backend;
}

/** @param {GPUAdapterInfo} info of the device in use. */
export function describeAdapter(info) {
  const words = [info.vendor, info.architecture, info.device, info.description].filter(Boolean);
  return label('webgpu', [...new Set(words)].join(' '), info.isFallbackAdapter);
}

/** @param gl the context in use, @param env TensorFlow.js' flags. */
export function describeWebgl(gl, env) {
  const named = gl.getExtension('WEBGL_debug_renderer_info');
  const renderer = gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  // ANGLE (vendor, renderer, driver)
  const device = (/^ANGLE \([^,]*, (.*), [^,]*\)$/.exec(renderer)?.[1] ?? renderer).replace(/ \(0x\w+\)/, '');
  const half = env.getBool('WEBGL_RENDER_FLOAT32_ENABLED') ? '' : ', 16-bit floats';
  return label('webgl', device + half, false);
}

function label(backend, words, software) {
  const marked = software || SOFTWARE.test(words) ? `${words}; software, parity only` : words;
  return `${backend} (${marked || 'adapter not told'})`;
}
