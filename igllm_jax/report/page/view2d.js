// A plan of a scene whose calls have places of two numbers: true ones as rings, predicted ones as dots, pairs joined.

const PLAN = 220;

function plan(scene) {
  const all = [...scene.points, ...scene.runs.flatMap((run) => (run ? run.points : []))];
  const xs = scene.points.map((point) => point[0]);
  const ys = scene.points.map((point) => point[1]);
  const [left, right] = [Math.min(0, ...xs), Math.max(1, ...xs)];
  const [top, bottom] = [Math.min(0, ...ys), Math.max(1, ...ys)];
  const x = scale([left, right], 12, PLAN - 12);
  const y = scale([top, bottom], 12, PLAN - 12);
  const inside = (value) => Math.max(4, Math.min(PLAN - 4, value));
  const at = (point) => [inside(x(point[0])), inside(y(point[1]))];
  const node = shape("svg", { viewBox: `0 0 ${PLAN} ${PLAN}`, class: "plan", role: "img" });
  node.append(shape("title", {}, `${all.length} places`));
  scene.runs.forEach((run, number) => {
    if (!run) return;
    for (const [true_, said] of run.pairs || []) {
      if (!scene.points[true_] || !run.points[said]) continue;
      const [[x1, y1], [x2, y2]] = [at(scene.points[true_]), at(run.points[said])];
      node.append(shape("line", { x1, y1, x2, y2, stroke: colorOf(number) }));
    }
    for (const point of run.points) {
      const [cx, cy] = at(point);
      node.append(shape("circle", { cx, cy, r: 4, fill: colorOf(number) }));
    }
  });
  for (const point of scene.points) {
    const [cx, cy] = at(point);
    node.append(shape("circle", { cx, cy, r: 6, fill: "none", stroke: "#1a202c", "stroke-width": 1.5 }));
  }
  return node;
}
