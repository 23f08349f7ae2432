// Elements from data. Text always becomes a text node, so nothing that a model wrote is ever read as markup.

const content = JSON.parse(document.getElementById("content").textContent);
const COLORS = ["#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#4a5568"];
const SVG = "http://www.w3.org/2000/svg";

function colorOf(run) {
  return COLORS[run % COLORS.length];
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A labelled <select>. options: [value, text] each; changed: called with the value.
function choice(id, label, options, changed) {
  const select = element("select", { id, onchange: () => changed(select.value) });
  for (const [value, text] of options) select.append(element("option", { value }, text));
  return element("label", { class: "choice" }, `${label} `, select);
}

function format(value, digits) {
  if (value === null || value === undefined) return "-";
  return digits === undefined ? String(Number(value.toPrecision(3))) : value.toFixed(digits);
}

function about(metric) {
  return content.about[metric] || { text: metric, digits: 3, is_better_low: false };
}

function section(id, title, ...children) {
  return element("section", { id }, element("h2", {}, title), ...children);
}
