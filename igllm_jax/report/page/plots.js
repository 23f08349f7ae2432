// Plots of matched pairs and scenes: means with their counts, dots, bars, tables of confusions.

const WIDTH = 420;
const HEIGHT = 250;
const MARGIN = { left: 70, right: 12, top: 10, bottom: 40 };
const BINS = 8;
const LETTER = 6.5; // pixels that a letter of a tick takes, at most

function extent(values) {
  const known = values.filter((value) => value !== null && Number.isFinite(value));
  return known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function scale([low, high], from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

// An empty plot: axes with ticks and names. Returns the node and the functions that turn values into pixels.
function axes(x, y, xName, yName) {
  const node = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img" });
  const left = scale(x, MARGIN.left, WIDTH - MARGIN.right);
  const up = scale(y, HEIGHT - MARGIN.bottom, MARGIN.top);
  for (let i = 0; i <= 4; i += 1) {
    const value = y[0] + ((y[1] - y[0]) * i) / 4;
    const at = up(value);
    node.append(
      shape("line", { x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: at, y2: at, class: "grid" }),
      shape("text", { x: MARGIN.left - 5, y: at + 4, class: "tick end" }, format(value)),
    );
  }
  node.append(
    shape("text", { x: (MARGIN.left + WIDTH) / 2, y: HEIGHT - 4, class: "tick middle" }, xName),
    shape("text", { x: 12, y: HEIGHT / 2, class: "tick middle", transform: `rotate(-90 12 ${HEIGHT / 2})` }, yName),
  );
  return { node, left, up };
}

// Ticks below the plot, on two lines by turns where they would touch.
function xTicks(plot, values, names) {
  const texts = names || values.map((value) => format(value));
  const longest = Math.max(...texts.map((text) => text.length)) * LETTER;
  const isTight = values.some((value, i) => i && plot.left(value) - plot.left(values[i - 1]) < longest);
  values.forEach((value, i) => {
    const line = isTight && i % 2 ? 25 : 14;
    plot.node.append(shape("text", { x: plot.left(value), y: HEIGHT - MARGIN.bottom + line, class: "tick middle" }, texts[i]));
  });
}

// Lines with dots. series: for each run points [x, y, count].
function lines(series, xName, yName, ticks) {
  const points = series.flat();
  if (!points.length) return nothing();
  const [low, high] = extent(points.map((point) => point[0]));
  const pad = (high - low || 1) * 0.05;
  const plot = axes([low - pad, high + pad], [0, extent(points.map((point) => point[1]))[1] * 1.08 || 1], xName, yName);
  xTicks(plot, ticks || [low, (low + high) / 2, high]);
  series.forEach((own, run) => {
    const path = own.map((point, i) => `${i ? "L" : "M"}${plot.left(point[0])} ${plot.up(point[1])}`).join("");
    plot.node.append(shape("path", { d: path, fill: "none", stroke: colorOf(run), "stroke-width": 2 }));
    for (const [x, y, count] of own) {
      const title = shape("title", {}, `${format(x)}: ${format(y)} (${count})`);
      plot.node.append(shape("circle", { cx: plot.left(x), cy: plot.up(y), r: 4, fill: colorOf(run) }, title));
    }
  });
  return plot.node;
}

function nothing() {
  return element("p", { class: "note" }, "Nothing to show.");
}

// Bars in groups. groups: name -> for each run [value, count] or null.
function bars(groups, yName) {
  const names = [...groups.keys()];
  const values = [...groups.values()].flat().filter((entry) => entry);
  if (!values.length) return nothing();
  const plot = axes([0, names.length], [0, extent(values.map((entry) => entry[0]))[1] * 1.08 || 1], "", yName);
  xTicks(plot, names.map((_, i) => i + 0.5), names.map((name) => (name.length > 9 ? `${name.slice(0, 8)}…` : name)));
  const width = (plot.left(1) - plot.left(0)) / (content.runs.length + 1);
  names.forEach((name, i) => {
    groups.get(name).forEach((entry, run) => {
      if (!entry) return;
      const top = plot.up(entry[0]);
      const box = { x: plot.left(i) + width * (run + 0.5), y: top, width, height: plot.up(0) - top };
      const title = shape("title", {}, `${name}: ${format(entry[0])} (${entry[1]})`);
      plot.node.append(shape("rect", { ...box, fill: colorOf(run) }, title));
    });
  });
  return plot.node;
}

// Predicted against true numbers, on a canvas: thousands of dots are too many elements.
function dots(component) {
  const all = content.runs.flatMap((run) => (run.pairs.components[component] || []).filter((pair) => pair));
  if (!all.length) return nothing();
  const [low, high] = extent(all.map((pair) => pair[0]));
  const pad = (high - low || 1) * 0.15;
  const range = [low - pad, high + pad];
  const canvas = element("canvas", { width: 2 * WIDTH, height: 2 * WIDTH, class: "plot square" });
  const pen = canvas.getContext("2d");
  const at = scale(range, 60, 2 * WIDTH - 10);
  const clamp = (value) => Math.max(range[0], Math.min(range[1], value));
  pen.strokeStyle = "#a0aec0";
  pen.lineWidth = 2;
  pen.strokeRect(60, 10, 2 * WIDTH - 70, 2 * WIDTH - 70);
  pen.beginPath();
  pen.moveTo(at(range[0]), 2 * WIDTH - at(range[0]));
  pen.lineTo(at(range[1]), 2 * WIDTH - at(range[1]));
  pen.stroke();
  pen.fillStyle = "#4a5568";
  pen.font = "24px system-ui, sans-serif";
  pen.fillText(`true ${component}, ${format(low)} to ${format(high)}`, 70, 2 * WIDTH - 14);
  pen.save();
  pen.rotate(-Math.PI / 2);
  pen.fillText("predicted", -WIDTH, 40);
  pen.restore();
  content.runs.forEach((run, number) => {
    pen.fillStyle = `${colorOf(number)}80`;
    for (const pair of run.pairs.components[component] || []) {
      if (pair) pen.fillRect(at(pair[0]) - 4, 2 * WIDTH - at(clamp(pair[1])) - 4, 8, 8);
    }
  });
  return canvas;
}

// Means of an error over pairs that share a key. Returns key -> for each run [mean, count] or null.
function grouped(error, keyOf) {
  const groups = new Map();
  content.runs.forEach((run, number) => {
    (run.pairs.errors[error] || []).forEach((value, i) => {
      const key = keyOf(run.pairs, i);
      if (value === null || key === null || key === undefined) return;
      if (!groups.has(key)) groups.set(key, content.runs.map(() => []));
      groups.get(key)[number].push(value);
    });
  });
  const means = [...groups].map(([key, runs]) => [key, runs.map((own) => (own.length ? [mean(own), own.length] : null))]);
  return new Map(means.sort((a, b) => (a[0] < b[0] ? -1 : 1)));
}

// Mean error in bins that hold as many pairs each. Returns for each run points [middle, mean, count].
function byDistance(error) {
  return content.runs.map((run) => {
    const errors = run.pairs.errors[error] || [];
    const known = errors.map((value, i) => [run.pairs.distance[i], value]).filter(([a, b]) => a !== null && b !== null);
    known.sort((a, b) => a[0] - b[0]);
    const size = Math.max(1, Math.ceil(known.length / BINS));
    const points = [];
    for (let start = 0; start < known.length; start += size) {
      const own = known.slice(start, start + size);
      points.push([mean(own.map((pair) => pair[0])), mean(own.map((pair) => pair[1])), own.length]);
    }
    return points;
  });
}

function byCount(metric) {
  return content.runs.map((run) =>
    Object.entries(run.by_object_count)
      .filter(([, group]) => group[metric] !== null && group[metric] !== undefined)
      .map(([count, group]) => [Number(count), group[metric], group.num_scenes]),
  );
}

function errorBars(error) {
  const all = content.runs.flatMap((run) => run.pairs.errors[error] || []).filter((value) => value !== null);
  const most = extent(all)[1] || 1;
  const groups = new Map();
  for (let i = 0; i < BINS; i += 1) {
    const inside = (value) => value !== null && Math.min(BINS - 1, Math.floor((value / most) * BINS)) === i;
    const counts = content.runs.map((run) => (run.pairs.errors[error] || []).filter(inside).length);
    groups.set(`≤ ${format((most * (i + 1)) / BINS)}`, counts.map((count) => [count, count]));
  }
  return bars(groups, "pairs");
}

function confusion(run, attribute) {
  const rows = content.runs[run].confusion[attribute] || {};
  const trueWords = Object.keys(rows).slice(0, 25);
  const said = [...new Set(trueWords.flatMap((word) => Object.keys(rows[word])))].slice(0, 25);
  const table = element("table", { class: "confusion" });
  table.append(element("tr", {}, element("th", {}, "true ↓ predicted →"), ...said.map((word) => element("th", {}, word))));
  for (const word of trueWords) {
    const total = Object.values(rows[word]).reduce((sum, count) => sum + count, 0);
    const cells = said.map((other) => {
      const count = rows[word][other] || 0;
      const cell = element("td", {}, count ? String(count) : "");
      const [red, green, blue] = word === other ? [47, 133, 90] : [197, 48, 48];
      cell.style.background = `rgba(${red}, ${green}, ${blue}, ${(0.7 * count) / total})`;
      return cell;
    });
    table.append(element("tr", {}, element("th", {}, word), ...cells));
  }
  return table;
}

function calibrationPlot() {
  const plot = axes([0, 1], [0, 1], "confidence of a call", "share that is right");
  xTicks(plot, [0, 0.5, 1]);
  plot.node.append(
    shape("line", { x1: plot.left(0), y1: plot.up(0), x2: plot.left(1), y2: plot.up(1), class: "grid" }),
  );
  content.runs.forEach((run, number) => {
    for (const [sure, share, count] of (run.calibration || { bins: [] }).bins) {
      const title = shape("title", {}, `${format(sure)} sure, ${format(share)} right (${count} calls)`);
      const radius = 3 + 9 * Math.sqrt(count / run.calibration.calls);
      const circle = { cx: plot.left(sure), cy: plot.up(share), r: radius };
      plot.node.append(shape("circle", { ...circle, fill: colorOf(number), "fill-opacity": 0.7 }, title));
    }
  });
  const errors = content.runs.map((run) => (run.calibration ? format(run.calibration.error) : "-")).join(", ");
  return element("div", {}, plot.node, element("p", { class: "note" }, `Expected calibration error: ${errors}`));
}

// A plot with choices above it. choices: [id, label, options]; draw: called with their values.
function panel(title, choices, draw) {
  const host = element("div");
  const values = choices.map(([, , options]) => options[0][0]);
  const again = () => host.replaceChildren(draw(...values));
  const selects = choices.map(([id, label, options], i) =>
    choice(id, label, options, (value) => {
      values[i] = value;
      again();
    }),
  );
  again();
  return element("figure", { class: "panel" }, element("figcaption", {}, title), ...selects, host);
}

function namesOf(group) {
  return [...new Set(content.runs.flatMap((run) => Object.keys(run.pairs[group])))].map((name) => [name, name]);
}

function plotsSection() {
  const panels = curvePanels();
  const errors = namesOf("errors");
  const counted = [...new Set(content.runs.flatMap((run) => Object.values(run.by_object_count).flatMap(Object.keys)))];
  const metrics = counted.filter((name) => name !== "num_scenes").map((name) => [name, name]);
  const counts = new Set(content.runs.flatMap((run) => Object.keys(run.by_object_count)));
  if (counts.size > 1 && metrics.length) {
    const ticks = [...counts].map(Number);
    const draw = (metric) => lines(byCount(metric), "objects in the scene", metric, ticks);
    panels.push(panel("By number of objects", [["plot-count", "metric", metrics]], draw));
  }
  if (errors.length) {
    const far = (error) => lines(byDistance(error), content.distance, `error of ${error}`);
    panels.push(panel("By distance", [["plot-distance", "error of", errors]], far));
    const words = namesOf("words");
    if (words.length) {
      const chosen = [["plot-error", "error of", errors], ["plot-word", "by", words]];
      const draw = (error, word) => bars(grouped(error, (pairs, i) => pairs.words[word][i]), `error of ${error}`);
      panels.push(panel("By attribute", chosen, draw));
    }
    panels.push(panel("Spread of errors", [["plot-spread", "error of", errors]], errorBars));
  }
  const components = namesOf("components");
  if (components.length) panels.push(panel("Number by number", [["plot-dots", "number", components]], dots));
  const confused = [...new Set(content.runs.flatMap((run) => Object.keys(run.confusion)))].map((name) => [name, name]);
  if (confused.length) {
    const runs = content.runs.map((run, i) => [String(i), run.name]);
    const chosen = [["plot-confusion", "attribute", confused], ["plot-run", "run", runs]];
    panels.push(panel("Confusion", chosen, (attribute, run) => confusion(Number(run), attribute)));
  }
  if (content.runs.some((run) => run.calibration)) panels.push(panel("Calibration", [], calibrationPlot));
  const sampled = content.runs.some((run) => run.pairs.errors && run.pairs.distance.length < run.pairs.num_pairs);
  const note = sampled ? "Of many matched pairs, some spread over all scenes are shown." : "";
  return section("plots", "Plots", element("p", { class: "note" }, note), element("div", { class: "panels" }, ...panels));
}
