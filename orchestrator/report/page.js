"use strict";
// Draws what Python computed (the element #data) and words it. No number is worked out here but which of a place's
// seeds to speak of. All texts go in as text nodes, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const by_id = (id) => document.getElementById(id);
const chosen = { method: "", setting: data.main, site: "", at: "", scale: "raw", over: "maximum" };
const SCALES = { raw: "Raw", normalised: "Normalised", excess: "Above controls" };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== ""));
  return made;
}
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const unique = (values) => [...new Set(values)];
const words = (name) => name.replaceAll("_", " ");
const fixed = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
const whole = (value) => value.toLocaleString("en");

// ---- what is chosen

const chosen_by = (...names) => data.maps.filter((map) => names.every((name) => map[name] === chosen[name]));
const maps_now = () => chosen_by("method", "setting", "site", "at");
const metric_now = () => data.maps.find((map) => map.method === chosen.method).metric;

function select(name, values, label, on_change) {
  if (values.length < 2) return null;
  const options = values.map((value) => element("option", { value, selected: value === chosen[name] }, label(value)));
  const changed = (event) => on_change(event.target.value);
  const menu = element("select", { id: name, onchange: changed }, options);
  return element("label", {}, element("span", { class: "name" }, words(name === "over" ? "seeds" : name)), menu);
}

function segments() {
  const scales = data.scales[metric_now()];
  const choices = Object.entries(SCALES).map(([scale, label]) => {
    const input = element("input", {
      type: "radio", name: "scale", value: scale,
      checked: scale === chosen.scale, disabled: scale !== "raw" && !scales[scale].has_values,
      onchange: () => choose({ scale }),
    });
    return element("label", {}, input, label);
  });
  const name = element("span", { class: "name", id: "scale-name" }, "unit");
  return element("fieldset", { role: "radiogroup", "aria-labelledby": "scale-name" }, name,
    element("div", { class: "segments" }, choices));
}

function toolbar() {
  const methods = unique(data.maps.map((map) => map.method));
  const of_method = data.maps.filter((map) => map.method === chosen.method);
  const seeds = unique(of_method.flatMap((map) => map.seeds)).sort((a, b) => a - b);
  const is_probe = (method) => data.maps.find((map) => map.method === method).metric === "decoding";
  const method_label = (method) => words(method) + (is_probe(method) ? " (decoding, not IIA)" : "");
  const seed_label = (over) => (SEEDS[over] ? SEEDS[over] : `seed ${over}`);
  const setting_label = (setting) => (setting === data.main ? "as trained" : words(setting));
  by_id("toolbar").replaceChildren(...[
    segments(),
    seeds.length > 1 ? select("over", ["maximum", "mean", ...seeds.map(String)], seed_label, (over) => choose({ over })) : null,
    select("method", methods, method_label, (method) => choose({ method, setting: data.main })),
    select("setting", unique(of_method.map((map) => map.setting)), setting_label, (setting) => choose({ setting })),
    select("site", unique(chosen_by("method", "setting").map((map) => map.site)), words, (site) => choose({ site, at: "" })),
    select("at", unique(chosen_by("method", "setting", "site").map((map) => map.at)), at_label, (at) => choose({ at })),
  ].filter(Boolean));
}
function at_label(at) {
  const unit = chosen_by("method", "setting", "site")[0].unit_name;
  return at === "" ? `all positions, the best ${unit} of each` : `${unit}s at position ${at}`;
}
const SEEDS = { maximum: "highest of all", mean: "mean of all" };

function choose(change) {
  Object.assign(chosen, change);
  if (!chosen_by("method", "setting", "site").length) Object.assign(chosen, { site: chosen_by("method", "setting")[0].site, at: "" });
  if (!maps_now().length) chosen.at = "";
  const scales = data.scales[metric_now()];
  if (!scales[chosen.scale].has_values) chosen.scale = "raw";
  if (!maps_now().some((map) => map.values.raw[chosen.over])) chosen.over = "maximum";
  hide_card();
  toolbar();
  key();
  panels();
}

// ---- the key: colours and marks

function key() {
  const { unit, range: [low, high] } = data.scales[metric_now()][chosen.scale];
  const step = [0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50].find((size) => (high - low) / size <= 8) ?? 100;
  const numbers = Array.from({ length: 1 + Math.floor((high - low) / step + 1e-6) }, (_, index) => (Math.ceil(low / step - 1e-6) + index) * step);
  const ticks = numbers.filter((number) => number <= high + 1e-6).map((number) =>
    element("span", { style: `left:${(100 * (number - low)) / (high - low)}%` }, fixed(number, step < 0.1 || step === 0.25 ? 2 : 1)));
  const gradient = `background:linear-gradient(90deg,${data.colours[chosen.scale].join()})`;
  by_id("colourbar").replaceChildren(unit, element("div", { class: "bar", style: gradient }),
    element("div", { class: "ticks" }, ticks));
  const states = maps_now().flatMap((map) => map.state[chosen.over] ?? []).flat();
  const items = Object.keys(data.states).filter((state) => states.includes(state)).map((state) =>
    element("li", {}, swatch(css(state), data.states[state]), data.states[state].label));
  if (maps_now().some((map) => map.better[chosen.over]?.flat().includes(1))) {
    items.push(element("li", {}, dot(), "more often right than without intervention (Holm)"));
  }
  by_id("marks").replaceChildren(...items);
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}
const swatch = (colour, mark) => svg("svg", { viewBox: "0 0 18 18", style: `background:${colour}` },
  svg("path", { d: mark.path, fill: mark.is_filled ? css("mark") : "none", stroke: css("mark"), "stroke-width": 1.4 }));
const dot = () => svg("svg", { viewBox: "0 0 18 18", style: `background:${data.colours.raw[13]}` },
  svg("circle", { cx: 9, cy: 9, r: 3, fill: "#fff", stroke: "#000" }));

// ---- the maps

function panels() {
  const maps = maps_now();
  const n_positions = Math.max(...maps.map((map) => map.columns.length));
  by_id("panels").style.gridTemplateColumns = `repeat(auto-fit, minmax(min(100%, ${Math.max(220, 50 + 13 * n_positions)}px), 1fr))`;
  by_id("panels").replaceChildren(...maps.map(panel));
  maps.forEach((map, index) => draw(map, by_id("panels").children[index].querySelector(".plot")));
}

function panel(map) {
  const label = `${map.name}: layer by ${map.at === "" ? "token position" : map.column_name}. Arrow keys walk through the places.`;
  const plot = element("div", { class: "plot", tabindex: 0, role: "application", "aria-label": label });
  const width = `max-width:${Math.max(360, 60 + 46 * map.columns.length)}px`;
  return element("div", { class: "panel", style: width }, element("h3", {},
    element("span", { title: map.name }, map.name), element("small", { title: "places measured" }, progress(map))),
    element("div", { class: "sub" }, headline(map)), plot);
}

function progress(map) {
  const states = (map.state[chosen.over] ?? []).flat().filter(Boolean);
  return `${whole(states.filter((state) => state === "done").length)} of ${whole(states.length)}`;
}

function headline(map) {
  const values = map.values[chosen.scale][chosen.over] ?? [];
  const known = values.flat().filter((value) => value !== null);
  if (!known.length) return "no number yet";
  const highest = Math.max(...known);
  const layer = values.findIndex((line) => line.includes(highest));
  return `highest ${fixed(highest)} at layer ${map.layers[layer]}, ${map.column_name} ${map.labels[values[layer].indexOf(highest)]}`;
}

function draw(map, plot) {
  const width = plot.clientWidth;
  const cell_height = Math.min(30, Math.max(13, 300 / map.layers.length));
  const labels = map.labels;
  const left = 40;
  const every = Math.ceil(11 / Math.max(1, (width - left - 8) / labels.length));
  const bottom = 12 + 6.1 * Math.min(20, Math.max(...labels.map((label) => label.length)));
  const shown = labels.map((label, index) => [index, label]).filter(([index]) => index % every === 0);
  const font = { family: getComputedStyle(document.body).fontFamily, size: 11, color: css("soft") };
  const axis = { fixedrange: true, showgrid: false, zeroline: false, showline: false, ticks: "", automargin: false };
  const layout = {
    width, height: map.layers.length * cell_height + bottom + 6, margin: { l: left, r: 4, t: 6, b: bottom },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font, showlegend: false, hovermode: "closest", dragmode: false,
    xaxis: { ...axis, range: [-0.5, labels.length - 0.5], tickangle: -90, tickvals: shown.map(([index]) => index),
      ticktext: shown.map(([, label]) => (label.length > 20 ? label.slice(0, 19) + "…" : label).replaceAll("<", "&lt;")) },
    yaxis: { ...axis, range: [-0.5, map.layers.length - 0.5], tickvals: map.layers.map((_, index) => index),
      ticktext: map.layers.map(String), title: { text: "layer", standoff: 4 } },
  };
  Plotly.newPlot(plot, traces(map, width, cell_height), layout, { displayModeBar: false, doubleClick: false });
  plot.on("plotly_hover", ({ points }) => point_at(map, plot, points[0].y, points[0].x));
  plot.on("plotly_unhover", hide_card);
  plot.addEventListener("keydown", (event) => walk(event, map, plot));
  plot.addEventListener("blur", hide_card);
}

function traces(map, width, cell_height) {
  const { range: [low, high] } = data.scales[map.metric][chosen.scale];
  const colours = data.colours[chosen.scale];
  const names = Object.keys(data.states);
  const state = map.state[chosen.over] ?? map.layers.map(() => map.columns.map(() => ""));
  const absent = state.map((line) => line.map((name) => (names.includes(name) ? names.indexOf(name) : null)));
  const greys = names.flatMap((name, index) => [[index / names.length, css(name)], [(index + 1) / names.length, css(name)]]);
  const heat = { type: "heatmap", showscale: false, xgap: 1, ygap: 1 };
  const at = (wanted) => state.flatMap((line, y) => line.flatMap((_, x) => (wanted(y, x) ? [[x, y]] : [])));
  const size = Math.max(4, Math.min(9, 0.45 * Math.min(cell_height, width / map.columns.length)));
  const symbols = Object.entries(data.states).map(([name, { symbol, is_dot }]) => marks(at((y, x) => state[y][x] === name), {
    symbol, size: is_dot ? 3 : size, color: css("mark"), line: { color: css("mark"), width: 1.4 },
  }));
  const better = map.better[chosen.over] ?? [];
  return [
    { ...heat, z: absent, colorscale: greys, zmin: -0.5, zmax: names.length - 0.5, hoverinfo: "skip" },
    { ...heat, z: map.values[chosen.scale][chosen.over] ?? absent.map((line) => line.map(() => null)), hoverinfo: "none",
      colorscale: colours.map((colour, index) => [index / (colours.length - 1), colour]), zmin: low, zmax: high },
    ...symbols,
    marks(at((y, x) => better[y]?.[x] === 1), { symbol: "circle", size: size / 2, color: "#fff", line: { color: "#000", width: 0.8 } }),
  ];
}
const marks = (places, marker) => ({ type: "scatter", mode: "markers", hoverinfo: "skip", marker,
  x: places.map(([x]) => x), y: places.map(([, y]) => y) });

// ---- the card of a place

function records_at(map, layer, position) {
  return (map.cells[layer]?.[position] ?? []).map((record) => Object.fromEntries(data.record.map((name, index) =>
    [name, data.textual.includes(name) ? data.texts[record[index]] : record[index]])));
}

function point_at(map, plot, layer, position) {
  const records = records_at(map, layer, position);
  if (!records.length) return hide_card();
  const { xaxis, yaxis } = plot._fullLayout;
  const box = plot.getBoundingClientRect();
  const x = box.left + xaxis._offset + xaxis.d2p(position);
  const y = box.top + yaxis._offset + yaxis.d2p(layer);
  const card = by_id("card");
  card.replaceChildren(...card_of(map, layer, position, records));
  card.hidden = false;
  // Beside the map where there is room, so that it covers none of it; else beside the place.
  const gap = 10;
  const wanted = [box.right + gap, box.left - gap - card.offsetWidth, x + 2 * gap].find((left) => left >= 0 && left + card.offsetWidth <= innerWidth);
  card.style.left = `${Math.max(8, wanted ?? x - 2 * gap - card.offsetWidth)}px`;
  card.style.top = `${Math.max(8, Math.min(innerHeight - card.offsetHeight - 8, y - card.offsetHeight / 2))}px`;
  plot.dataset.layer = layer;
  plot.dataset.position = position;
  const shape = { type: "rect", x0: position - 0.5, x1: position + 0.5, y0: layer - 0.5, y1: layer + 0.5, line: { color: css("ink"), width: 2 } };
  Plotly.relayout(plot, { shapes: [shape] });
  outlined = plot;
}
let outlined = null;

function hide_card() {
  by_id("card").hidden = true;
  if (outlined?.isConnected) Plotly.relayout(outlined, { shapes: [] });
  outlined = null;
}

function walk(event, map, plot) {
  const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === "Escape") hide_card();
  if (!step) return;
  event.preventDefault();
  const inside = (value, n) => Math.max(0, Math.min(n - 1, value));
  const layer = inside(Number(plot.dataset.layer ?? map.layers.length - 1 - step[0]) + step[0], map.layers.length);
  const position = inside(Number(plot.dataset.position ?? -step[1]) + step[1], map.columns.length);
  plot.dataset.layer = layer;
  plot.dataset.position = position;
  point_at(map, plot, layer, position);
}

function card_of(map, layer, position, records) {
  const done = records.filter((record) => record.state === "done");
  const best = done.reduce((a, b) => (a === null || b.value > a.value ? b : a), null);
  const of_seed = records.find((record) => String(record.seed) === chosen.over);
  const told = of_seed ?? best ?? records[0];
  const unit = told.unit !== null ? `${map.unit_name} ${whole(told.unit)} · ` : "";
  const [at, token] = map.at === "" ? [map.columns[position], map.tokens[position]] : [map.at, ""];
  const place = element("div", { class: "place" }, `${map.name} · layer ${map.layers[layer]} · ${unit}position ${at} `,
    token === "" ? "" : element("code", {}, token));
  const body = told.state === "done" ? measured(map, told, done, map.values.raw[chosen.over]?.[layer]?.[position]) : absent(told);
  return [place, ...body, seeds_line(records), foot(told)].filter(Boolean);
}

function absent(told) {
  return [element("div", { class: "big" }, data.states[told.state]?.label ?? told.state), element("div", {}, told.reason || "no measurement yet")];
}

function measured(map, told, done, value) {
  const metric = data.metrics[map.metric];
  const is_mean = chosen.over === "mean" && done.length > 1;
  const interval = `${fixed(told.low)} to ${fixed(told.high)} (95 %)` + (["iia", "decoding"].includes(map.metric)
    ? `, ${whole(told.n_correct)} of ${whole(told.n_total)}` : `, ${whole(told.n_total)} pairs`);
  const [least, most] = [Math.min, Math.max].map((pick) => fixed(pick(...done.map((one) => one.value))));
  const big = element("div", { class: "big" }, `${metric} ${fixed(is_mean ? value : told.value)}`,
    element("span", {}, is_mean ? `mean of ${done.length} seeds` : `seed ${told.seed}`));
  const detail = is_mean ? `${least} to ${most} over seeds. Of the highest, seed ${told.seed}: ${interval}` : interval;
  return [big, element("div", {}, detail), numbers(map, told, metric), test(told)].filter(Boolean);
}

function numbers(map, told, metric) {
  const is_iia = map.metric === "iia";
  const lines = [[metric, told.value, told.normalised], ["no intervention", told.none, told.none_normalised],
    ["whole vector swapped", told.full, told.full_normalised], ["random rotation", told.random, told.random_normalised],
    ["above its controls", told.excess, null], ["task accuracy", told.task, 1], ["majority label", told.dummy, 0]];
  const head = element("tr", {}, ["", "raw", is_iia ? "normalised" : ""].map((text) => element("th", {}, text)));
  return element("table", {}, head, lines.filter(([, raw]) => raw !== null).map(([name, raw, normalised]) =>
    element("tr", {}, element("th", {}, name), element("td", {}, fixed(raw)), element("td", {}, is_iia && normalised !== null ? fixed(normalised) : ""))));
}

function test(told) {
  if (told.p_holm === null) return null;
  const p = (value) => (value < 0.0001 ? "<\u00a00.0001" : `=\u00a0${fixed(value, 4)}`);
  return element("div", {}, `Against no intervention: ${whole(told.n_only_cell)} pairs right only with it, `
    + `${whole(told.n_only_none)} only without; p\u00a0${p(told.p_holm)} (Holm), q\u00a0${p(told.q)}`);
}

function seeds_line(records) {
  if (records.length < 2) return null;
  const one = (record) => `${record.seed}: ${record.state === "done" ? fixed(record.value) : data.states[record.state].label}`;
  return element("div", { class: "place" }, `Seeds ${records.map(one).join(" · ")}`);
}

function foot(told) {
  const facts = [told.job && `job ${told.job}`, told.attempt !== null && `attempt ${told.attempt}`, told.host, told.gpu_name,
    told.gpu_seconds !== null && `${fixed(told.gpu_seconds, 1)} s`, told.subspace_dim !== null && `${whole(told.subspace_dim)} dimensions`];
  const known = facts.filter(Boolean);
  return known.length ? element("div", { class: "foot" }, known.join(" · ")) : null;
}

// ---- light and dark, and the window's size

function set_theme(theme) {
  document.documentElement.dataset.theme = theme;
  by_id("theme").textContent = theme === "dark" ? "Light" : "Dark";
  if (data.maps.length) choose({});
}
const system = matchMedia("(prefers-color-scheme: dark)");
by_id("theme").addEventListener("click", () => set_theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
system.addEventListener("change", () => set_theme(system.matches ? "dark" : "light"));
let resized = 0;
let last_width = innerWidth;
addEventListener("resize", () => {
  clearTimeout(resized);
  if (innerWidth === last_width || !data.maps.length) return; // a phone's address bar changes the height alone
  last_width = innerWidth;
  resized = setTimeout(panels, 120);
});
addEventListener("scroll", hide_card, { passive: true });

if (data.maps.length) chosen.method = data.maps[0].method;
else by_id("maps").append("The grid has no cells.");
set_theme(system.matches ? "dark" : "light");
