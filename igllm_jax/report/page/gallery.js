// The gallery: scenes sorted and filtered, a card each, made as they come into sight.

const CARDS = 12; // made at a time
const MINOR = "ir3d_"; // metrics that cards show only where scenes are sorted by one

const gallery = { metric: "", run: 0, order: "worst", word: "", objects: "", name: "", against: "input" };

function valueOf(scene, metric, run) {
  const answer = scene.runs[run];
  const value = answer ? answer.values[metric] : undefined;
  return value === undefined ? null : value;
}

// The scenes to show, in order; those without a value come last.
function chosenScenes() {
  const { metric, run, order, word, objects, name } = gallery;
  const fits = (scene) =>
    (!word || scene.words.includes(word)) &&
    (!objects || String(scene.objects) === objects) &&
    (!name || scene.image.toLowerCase().includes(name.toLowerCase()));
  const found = content.scenes.filter(fits);
  if (order === "labels") return found;
  const sign = (about(metric).is_better_low ? -1 : 1) * (order === "worst" ? 1 : -1);
  const key = (scene) => {
    const value = valueOf(scene, metric, run);
    return value === null ? Infinity : sign * value;
  };
  return found.map((scene) => [key(scene), scene]).sort((a, b) => (a[0] > b[0]) - (a[0] < b[0])).map(([, scene]) => scene);
}

function picture(source, caption) {
  return element("figure", {}, element("img", { src: source, alt: caption, loading: "lazy" }), element("figcaption", {}, caption));
}

// Two pictures, of which the browser shows the difference, twice as bright.
function difference(one, other, caption) {
  const both = element("div", { class: "difference" }, element("img", { src: one, alt: "" }), element("img", { src: other, alt: caption }));
  return element("figure", {}, both, element("figcaption", {}, caption));
}

function piece(part) {
  if (typeof part === "string") return part;
  const [text, kind, truth] = part;
  return element("span", { class: kind, title: kind === "unread" || kind === "extra" ? truth : `true: ${truth}` }, text);
}

function code(answer) {
  const block = element("pre", { class: "code" });
  for (const line of answer.lines) block.append(...line.map(piece), "\n");
  for (const line of answer.missed) block.append(element("span", { class: "missed", title: "missing" }, line), "\n");
  return block;
}

function figures(scene, answer) {
  const made = [];
  if (scene.input) made.push(picture(scene.input, "input"));
  else if (scene.true) made.push(picture(scene.true, "truth, drawn"));
  if (answer && answer.picture) {
    made.push(picture(answer.picture, "drawn again"));
    const other = gallery.against === "truth" && scene.true ? scene.true : scene.input || scene.true;
    if (other) made.push(difference(other, answer.picture, "difference"));
  }
  return made;
}

function values(answer) {
  const names = Object.keys(answer.values).filter((name) => name !== gallery.metric && !name.startsWith(MINOR));
  const first = [gallery.metric, ...names];
  const cells = first.filter((name) => name in answer.values).map((name) =>
    element("span", { class: name === gallery.metric ? "value sorted" : "value", title: about(name).text },
      `${name} ${format(answer.values[name], about(name).digits)}`));
  return element("div", { class: "values" }, ...cells);
}

function answerRow(scene, answer, run) {
  if (!answer) return element("div", { class: "answer" }, dot(run), `${content.runs[run].name}: no answer`);
  const problems = answer.problems.map((problem) => element("li", {}, problem));
  if (answer.num_problems > problems.length) problems.push(element("li", {}, `${answer.num_problems} problems in all`));
  const head = element("div", { class: "run" }, dot(run), content.runs[run].name);
  const right = element("div", { class: "said" }, head, values(answer), code(answer));
  if (problems.length) right.append(element("ul", { class: "problems" }, ...problems));
  for (const note of answer.notes) right.append(element("p", { class: "note" }, note));
  return element("div", { class: "answer" }, element("div", { class: "figures" }, ...figures(scene, answer)), right);
}

function objectsText(count) {
  return count === 1 ? "1 object" : `${count} objects`;
}

function card(scene) {
  const title = element("h3", {}, scene.image, element("small", {}, ` ${objectsText(scene.objects)}`));
  if (canTurn && scene.parts) {
    title.append(element("button", { type: "button", class: "turn", onclick: () => openView(scene) }, "3D"));
  }
  const truth = element("details", {}, element("summary", {}, "true code"), element("pre", { class: "code" }, scene.code.join("\n")));
  const rows = scene.runs.map((answer, run) => answerRow(scene, answer, run));
  const flat = scene.points ? plan(scene) : null;
  const node = element("article", { class: "card" }, title, ...rows, flat, truth);
  node.dataset.image = scene.image;
  return node;
}

function gallerySection() {
  const cards = element("div", { id: "cards" });
  const status = element("p", { class: "note", id: "status" });
  const more = element("button", { type: "button", id: "more" }, "more");
  let rest = [];
  const add = () => {
    cards.append(...rest.splice(0, CARDS).map(card));
    more.hidden = !rest.length;
  };
  const again = () => {
    rest = chosenScenes();
    status.textContent = `${rest.length} of ${content.scenes.length} scenes`;
    cards.replaceChildren();
    add();
  };
  const set = (name, read = (value) => value) => (value) => {
    gallery[name] = read(value);
    again();
  };
  more.addEventListener("click", add);
  new IntersectionObserver((seen) => {
    if (seen.some((entry) => entry.isIntersecting)) add();
  }).observe(more);
  const node = section("gallery", "Scenes", galleryControls(set), legend(), status, cards, more);
  again();
  return node;
}

function galleryControls(set) {
  const measured = content.scenes.flatMap((scene) => scene.runs.flatMap((run) => (run ? Object.keys(run.values) : [])));
  const known = new Set(measured);
  const metrics = Object.keys(content.about).filter((name) => known.has(name)).map((name) => [name, name]);
  gallery.metric = metrics.length ? metrics[0][0] : "";
  const words = [...new Set(content.scenes.flatMap((scene) => scene.words))].sort().map((word) => [word, word.replace("=", ": ")]);
  const counts = [...new Set(content.scenes.map((scene) => scene.objects))].sort((a, b) => a - b);
  const controls = [
    choice("sort-metric", "sort by", metrics, set("metric")),
    choice("sort-run", "of", content.runs.map((run, i) => [String(i), run.name]), set("run", Number)),
    choice("sort-order", "", [["worst", "worst first"], ["best", "best first"], ["labels", "as labelled"]], set("order")),
    choice("filter-word", "with", [["", "any words"], ...words], set("word")),
    choice("filter-objects", "", [["", "any number of objects"], ...counts.map((n) => [String(n), objectsText(n)])], set("objects")),
  ];
  if (content.scenes.some((scene) => scene.input && scene.true)) {
    const sides = [["input", "the input"], ["truth", "the truth drawn again"]];
    controls.push(choice("against", "difference to", sides, set("against")));
  }
  const search = element("input", { id: "filter-name", type: "search", placeholder: "image name" });
  search.addEventListener("input", () => set("name")(search.value));
  return element("div", { class: "controls" }, ...controls, search);
}

function legend() {
  const kinds = [
    ["right", "right, or near"],
    ["far", "number far off (a tenth of the labels' range; 15 degrees)"],
    ["wrong", "wrong word"],
    ["extra", "call too many"],
    ["missed", "call that is missing"],
    ["unread", "not readable"],
  ];
  return element("p", { class: "legend code" }, ...kinds.map(([kind, text]) => element("span", { class: kind }, text)));
}
