// Curves of training: for one measure a line for every set of every run, by step.

function measureOf(name) {
  return name.split("/").pop();
}

// [label, points, whether of held-out examples] of each line.
function curveLines(measure) {
  return content.curves.flatMap((run) =>
    Object.entries(run.curves)
      .filter(([name]) => measureOf(name) === measure)
      .map(([name, points]) => {
        const isHeldOut = name.includes("/");
        const label = isHeldOut ? name : `${name} in training`;
        return [content.curves.length > 1 ? `${run.name}: ${label}` : label, points, isHeldOut];
      }),
  );
}

// The range is that of held-out examples: in the first steps the training loss is many times higher.
function curvePlot(measure) {
  const found = curveLines(measure);
  const steps = extent(found.flatMap(([, points]) => points.map((point) => point[0])));
  const [low, high] = extent(found.flatMap(([, points, isHeldOut]) => (isHeldOut ? points.map((point) => point[1]) : [])));
  const pad = (high - low || 1) * 0.08;
  const range = [low - pad, high + pad];
  const plot = axes(steps, range, "step", measure);
  xTicks(plot, [steps[0], (steps[0] + steps[1]) / 2, steps[1]]);
  const inside = (value) => Math.max(range[0], Math.min(range[1], value));
  found.forEach(([label, points, isHeldOut], i) => {
    const at = points.map(([step, value]) => [plot.left(step), plot.up(inside(value))]);
    const path = at.map(([x, y], n) => `${n ? "L" : "M"}${x} ${y}`).join("");
    const drawn = { d: path, fill: "none", stroke: colorOf(i), "stroke-width": isHeldOut ? 2 : 1 };
    plot.node.append(shape("path", drawn, shape("title", {}, label)));
    if (!isHeldOut) return;
    points.forEach(([step, value], n) => {
      const title = shape("title", {}, `${label}, step ${step}: ${format(value)}`);
      plot.node.append(shape("circle", { cx: at[n][0], cy: at[n][1], r: 3, fill: colorOf(i) }, title));
    });
  });
  const names = found.map(([label], i) => element("span", { class: "run" }, dot(i), label));
  return element("div", {}, plot.node, element("p", { class: "note" }, ...names));
}

// One panel, or nothing where no run was given.
function curvePanels() {
  const names = content.curves.flatMap((run) => Object.keys(run.curves).filter((name) => name.includes("/")));
  const measures = [...new Set(names.map(measureOf))].map((name) => [name, name]);
  return measures.length ? [panel("In training", [["plot-curve", "measured", measures]], curvePlot)] : [];
}
