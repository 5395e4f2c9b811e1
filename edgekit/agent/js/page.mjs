// The page: takes jobs from the computer one at a time, gives each a frame of its own (run.html), and
// shows how far it is and what came out.

import {drawSamples, percentile} from './chart.mjs';
import {describeBrowser, describeMachine} from './machine.mjs';

const ACTIONS = {run: 'running all rows', time: 'timing', profile: 'timing operators'};
const RUNTIMES = {tfjs: 'TensorFlow.js', onnx: 'ONNX Runtime Web', tflite: 'LiteRT.js'};
const ROOT = new URL('../', import.meta.url);
const ID = Array.from(crypto.getRandomValues(new Uint8Array(8)), (n) => n.toString(16)).join('');

const at = (id) => document.getElementById(id);
let current = null; // the job under way: as browser_server.py describes it
let finished = 0;

function listen(browser) {
  const events = new EventSource(new URL(`events?page=${ID}&browser=${encodeURIComponent(browser)}`, ROOT));
  let last = 'waiting';
  events.addEventListener('ping', () => {
    if (!current) say('waiting', finished ? 'waiting for more' : 'ready');
    last = 'ping';
  });
  events.addEventListener('job', ({data}) => begin(JSON.parse(data)));
  events.addEventListener('taken', () => {
    last = 'taken';
    say('waiting', 'another page is connected');
  });
  events.addEventListener('closed', () => {
    events.close();
    say('good', 'done: this page can be closed');
  });
  events.onerror = () => {
    if (last !== 'taken') say('bad', 'no connection');
  };
}

function begin(job) {
  if (current?.id === job.id) return; // only the connection was new
  current = job;
  say('working', 'loading');
  const threads = job.threads > 1 ? `, ${job.threads} threads` : '';
  at('name').textContent = job.name;
  at('action').textContent = ACTIONS[job.action];
  at('runtime').textContent = `${RUNTIMES[job.format]}, ${job.backend}${threads}`;
  at('figures').replaceChildren();
  at('progress').hidden = false;
  at('progress').removeAttribute('value');
  showChart(false);
  at('current').hidden = false;
  const frame = document.createElement('iframe');
  frame.src = new URL(`js/run.html#${job.id}`, ROOT);
  at('frame').replaceChildren(frame);
}

addEventListener('message', ({origin, data}) => {
  if (!current || origin !== location.origin || data?.job !== current.id) return;
  if (data.answer) {
    end(data.answer);
    return;
  }
  if (data.warming) {
    say('working', 'warming up');
    return;
  }
  say('working', data.samples ? 'timing' : 'running');
  at('progress').value = data.done / data.all;
  if (data.samples) showSamples(data.samples);
});

function end(answer) {
  at('frame').replaceChildren();
  at('progress').hidden = true;
  const url = new URL(`jobs/${current.id}/answer`, ROOT);
  fetch(url, {method: 'POST', body: JSON.stringify(answer)}).catch(console.error);
  const {error, timing, profile, runtime} = answer;
  if (runtime) at('runtime').textContent = `${RUNTIMES[current.format]} ${runtime.version}, ${runtime.backend}`;
  let result;
  if (error) {
    showFigures([['error', error.message, 'wide error']]);
    result = 'failed';
  } else if (timing) {
    showSamples(timing.samples_ns, timing.load_ns);
    result = time(percentile(timing.samples_ns, 50));
  } else if (profile) {
    const longest = profile.operators.reduce((a, b) => (a.ns > b.ns ? a : b));
    showFigures([['longest operator', `${longest.type} ${longest.name}`, 'wide']]);
    result = 'by operator';
  } else {
    showFigures([['all rows', 'run and sent back to be compared', 'wide']]);
    result = 'run';
  }
  remember(result, error);
  current = null;
  say(error ? 'bad' : 'good', error ? 'failed' : 'done');
}

function remember(result, error) {
  finished += 1;
  const item = document.createElement('li');
  const line = document.createElement('div');
  line.className = 'line';
  const name = Object.assign(document.createElement('span'), {textContent: current.name});
  const value = Object.assign(document.createElement('b'), {textContent: result, className: error ? 'error' : ''});
  line.append(name, value);
  item.append(line, Object.assign(document.createElement('small'), {textContent: at('runtime').textContent}));
  at('list').prepend(item);
  while (at('list').children.length > 50) at('list').lastChild.remove();
  at('past').hidden = false;
}

function showSamples(samples, load) {
  showChart(true);
  const {low, high, edge} = drawSamples(at('chart'), samples);
  const cut = high > edge ? `, drawn to ${time(edge)}` : '';
  at('range').textContent = `${time(low)} – ${time(high)}${cut}`;
  at('count').textContent = `${samples.length} samples`;
  const [p50, p90] = [50, 90].map((share) => time(percentile(samples, share)));
  showFigures([['p50', p50], ['p90', p90], ['load', load ? time(load) : '–']]);
}

function showChart(shown) {
  at('chart').toggleAttribute('hidden', !shown);
  at('axis').hidden = !shown;
}

function showFigures(figures) {
  const parts = figures.map(([term, value, kind = '']) => {
    const part = Object.assign(document.createElement('div'), {className: kind});
    part.append(
      Object.assign(document.createElement('dt'), {textContent: term}),
      Object.assign(document.createElement('dd'), {textContent: value}),
    );
    return part;
  });
  at('figures').replaceChildren(...parts);
}

/** Nanoseconds with three digits and a unit. */
function time(ns) {
  const [unit, name] = ns < 1e6 ? [1e3, 'µs'] : ns < 1e9 ? [1e6, 'ms'] : [1e9, 's'];
  return `${Number((ns / unit).toPrecision(3))} ${name}`;
}

function say(kind, text) {
  at('state').className = kind;
  at('state').textContent = text;
  document.title = `${text} · edgekit`;
}

const {cpu, cores, os} = await describeMachine();
at('machine').textContent = [cpu, os, `${cores} cores`].join(', ');
navigator.wakeLock?.request('screen').catch(() => {}); // a dark screen slows a phone down
listen(await describeBrowser());
