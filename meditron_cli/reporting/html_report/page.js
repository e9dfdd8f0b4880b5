"use strict";
// Draws the charts with Vega-Lite, and zooms those of a group together.
const content = JSON.parse(document.getElementById("content").textContent);
const rows = {};
for (const [name, data] of Object.entries(content.data)) {
  rows[name] = data.rows.map((row) => Object.fromEntries(row.map((value, column) => [data.columns[column], value])));
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const groups = {};
for (const [name, range] of Object.entries(content.ranges)) groups[name] = { all: range, now: range, views: [] };

function show(name, range) {
  const group = groups[name], [first, last] = group.all, least = (last - first) / 5000;
  let [from, to] = range;
  if (to - from < least) [from, to] = [(from + to - least) / 2, (from + to + least) / 2];
  const width = Math.min(to - from, last - first);
  from = Math.min(Math.max(from, first), last - width);
  group.now = [from, from + width];
  for (const view of group.views) view.signal("zoom", group.now).runAsync();
  const text = name === "time"
    ? group.now.map((time) => new Date(time).toLocaleString()).join(" to ")
    : group.now.map((tokens) => compact.format(tokens)).join(" to ") + " tokens";
  document.querySelector(`.zoom[data-zoom="${name}"] output`).textContent = text;
}

function move(name, how) {
  const [from, to] = groups[name].now, width = to - from;
  show(name, {
    in: [from + width / 4, to - width / 4],
    out: [from - width / 2, to + width / 2],
    left: [from - width / 4, to - width / 4],
    right: [from + width / 4, to + width / 4],
    all: groups[name].all,
  }[how]);
}

const KEYS = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all", Escape: "all" };

function listen(element, view, name) {
  groups[name].views.push(view);
  element.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move(name, KEYS[event.key]);
  });
  element.addEventListener("dblclick", () => move(name, "all"));
  element.addEventListener("pointerdown", () => {
    window.addEventListener("pointerup", () => setTimeout(() => take(view, name)), { once: true });
  });
}

async function take(view, name) {
  await view.runAsync(); // the last movement may not have been drawn yet
  const brush = Object.values(view.signal("brush") || {})[0];
  if (!brush) return;
  view.signal("brush_x", [0, 0]).runAsync();
  show(name, brush.map(Number));
}

for (const button of document.querySelectorAll(".zoom button")) {
  button.addEventListener("click", () => move(button.parentElement.dataset.zoom, button.dataset.move));
}

async function draw({ name, spec, zoom }) {
  const element = document.getElementById(name);
  if (zoom) spec.params[0].value = groups[zoom].all;
  const used = new Set(JSON.stringify(spec).match(/"data":\{"name":"[^"]+"/g)?.map((text) => text.slice(16, -1)));
  spec.datasets = Object.fromEntries([...used].map((data) => [data, rows[data]]));
  const { view } = await vegaEmbed(element, spec, { renderer: "svg", actions: false, ast: true, config: content.config });
  if (zoom) listen(element, view, zoom);
}

window.drawn = Promise.all(content.charts.map(draw)).then(() => {
  for (const name of Object.keys(groups)) if (groups[name].views.length) show(name, groups[name].all);
});
