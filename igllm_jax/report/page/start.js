// Puts the page together.

function header() {
  const dots = content.runs.map((run, i) => element("span", { class: "run" }, dot(i), run.name));
  const shown = `${content.scenes.length} of ${content.num_labelled} scenes, task ${content.task}`;
  return element("header", {}, element("h1", {}, content.title), element("p", {}, shown, " · ", ...dots));
}

function start() {
  const page = document.getElementById("page");
  page.append(header(), metricsSection(), plotsSection());
  page.append(gallerySection());
  document.documentElement.dataset.ready = "yes";
}

start();
