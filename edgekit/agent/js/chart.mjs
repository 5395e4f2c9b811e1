// The samples of a measurement as they come: one dot each, the median as a line.

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 320;
const HEIGHT = 120;
const MOST_DOTS = 240;

/** Draw `samples` (nanoseconds) into the svg element. @returns the least, the largest, the upper edge. */
export function drawSamples(svg, samples) {
  const step = Math.max(1, Math.ceil(samples.length / MOST_DOTS));
  const shown = samples.filter((_, i) => i % step === 0);
  const median = percentile(samples, 50);
  const low = samples.reduce((a, b) => Math.min(a, b));
  const high = samples.reduce((a, b) => Math.max(a, b));
  // Few, long interruptions must not flatten the rest: they stay at the upper edge.
  const edge = Math.max(Math.min(high, 3 * percentile(shown, 90)), low * 1.05);
  const y = (value) => HEIGHT - 6 - ((Math.min(value, edge) - low) / (edge - low)) * (HEIGHT - 12);
  // Dots stay round though the picture is stretched.
  const stretched = (svg.clientWidth / WIDTH || 1) / (svg.clientHeight / HEIGHT || 1);
  const dots = shown.map((value, i) => {
    const dot = document.createElementNS(SVG, 'ellipse');
    const x = shown.length > 1 ? 4 + (i / (shown.length - 1)) * (WIDTH - 8) : WIDTH / 2;
    for (const [key, number] of Object.entries({cx: x, cy: y(value), rx: 2 / stretched, ry: 2})) {
      dot.setAttribute(key, number.toFixed(1));
    }
    return dot;
  });
  svg.replaceChildren(line('floor', HEIGHT), ...dots, line('median', y(median)));
  return {low, high, edge};
}

/** As numpy.percentile: linear between the two nearest. */
export function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const place = ((sorted.length - 1) * share) / 100;
  const below = sorted[Math.floor(place)];
  return below + (sorted[Math.ceil(place)] - below) * (place % 1);
}

function line(kind, y) {
  const found = document.createElementNS(SVG, 'line');
  const ends = {x1: 0, x2: WIDTH, y1: y, y2: y};
  for (const [key, value] of Object.entries(ends)) found.setAttribute(key, value);
  found.setAttribute('class', kind);
  return found;
}
