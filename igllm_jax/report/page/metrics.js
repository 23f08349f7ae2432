// The table of metrics: a row each, a column for every run, intervals in brackets.

function metricsSection() {
  const [head, ...rows] = content.table;
  const table = element("table", { class: "metrics" });
  table.append(
    element("tr", {}, ...head.map((text, i) => element("th", {}, i ? dot(i - 1) : null, text))),
  );
  for (const row of rows) {
    table.append(element("tr", {}, ...row.map((text, i) => element(i ? "td" : "th", {}, text))));
  }
  const problems = content.runs.flatMap((run, i) =>
    run.problems.map((problem) =>
      element("li", {}, dot(i), `${problem.answers} answers: ${problem.reason} (first: ${problem.example})`),
    ),
  );
  const list = problems.length ? element("ul", { class: "problems" }, ...problems) : null;
  const note = element("p", { class: "note" }, "In brackets: 95 % intervals, from scenes drawn anew with replacement.");
  return section("metrics", "Metrics", table, note, list);
}

// A coloured dot that stands for a run.
function dot(run) {
  const mark = element("span", { class: "dot" });
  mark.style.background = colorOf(run);
  return mark;
}
