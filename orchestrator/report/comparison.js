"use strict";
// The maps of two sweeps and their difference, side by side, as Python computed them.
const chosen = { kind: 0 };
const PANELS = data.is_one_model ? ["a", "b", "difference"] : ["a", "b"];
const NAMES = { ...data.names, difference: `${data.names.b} less ${data.names.a}` };
const signed = (value) => (value === null ? "–" : (value > 0 ? "+" : "") + fixed(value));
const maps_now = () => data.maps.filter((map) => map.kind === chosen.kind);

function toolbar() {
  const options = data.kinds.map((kind, value) => element("option", { value, selected: value === chosen.kind }, kind));
  const menu = element("select", { id: "kind", onchange: (event) => choose(Number(event.target.value)) }, options);
  by_id("toolbar").replaceChildren(...(data.kinds.length > 1 ? [element("label", {}, element("span", { class: "name" }, "maps"), menu)] : []));
}

function choose(kind) {
  if (!data.maps.length) return; // sets of places alone have no map
  chosen.kind = kind;
  hide_card();
  toolbar();
  key();
  by_id("rows").replaceChildren(...maps_now().map(row));
  maps_now().forEach((map, index) => PANELS.forEach((side, column) => draw(map, side, by_id("rows").children[index].querySelectorAll(".plot")[column])));
}

function key() {
  const scale = data.scales[maps_now()[0].metric];
  const label = (side) => (side === "difference" ? `${scale.title}: difference` : data.is_one_model ? scale.unit : `${NAMES[side]}: ${scale.unit}`);
  const sides = data.is_one_model ? ["a", "difference"] : PANELS;
  const bars = sides.map((side) => element("figure", { class: "scalebar" }, scale_bar(label(side), data.colours[side], scale[side], scale.is_share)));
  const only = element("li", {}, mark_of(false), "measured in one sweep only");
  const differs = element("li", {}, mark_of(true), "differs (Bonferroni)");
  by_id("key").replaceChildren(...bars, element("ul", { class: "marks" }, data.is_one_model ? [differs, only] : []));
}
const mark_of = (is_dot) => svg("svg", { viewBox: "0 0 18 18", style: is_dot ? `background:${data.colours.difference[15]}` : "" },
  is_dot ? svg("circle", { cx: 9, cy: 9, r: 3, fill: "#fff", stroke: "#000" })
    : svg("path", { d: "M5 5L13 13M13 5L5 13", stroke: css("mark"), "stroke-width": 1.4, fill: "none" }));

function row(map) {
  const panels = PANELS.map((side) => element("div", { class: "panel" }, element("div", { class: "sub", title: NAMES[side] }, headline(map, side)),
    element("div", { class: "plot", tabindex: 0, role: "application", "aria-label": `${map.name}, ${NAMES[side]}: layer by ${map.column_name}. Arrow keys walk through the places.` })));
  return element("div", { class: "compared" }, element("h3", {}, map.name, " ", element("small", {}, map.counts)),
    element("div", { class: "sides", style: `grid-template-columns: repeat(auto-fit, minmax(min(100%, ${Math.max(220, 50 + 13 * map.columns.length)}px), 1fr))` }, panels));
}

function headline(map, side) {
  const known = map[side].flat().filter((value) => value !== null);
  if (!known.length) return `${NAMES[side]}: no number`;
  if (side === "difference") return `${NAMES[side]}: ${signed(Math.min(...known))} to ${signed(Math.max(...known))}`;
  const best = data.scales[map.metric].best === "lowest" ? Math.min(...known) : Math.max(...known);
  const layer = map[side].findIndex((line) => line.includes(best));
  return `${NAMES[side]}: ${data.scales[map.metric].best} ${fixed(best)} at layer ${map.layers[layer]}, ${map.column_name} ${map.labels[map[side][layer].indexOf(best)]}`;
}

function draw(map, side, plot) {
  const width = plot.clientWidth;
  const height = cell_height_of(map);
  const [zmin, zmax] = data.scales[map.metric][side];
  const at = (wanted) => map.mark.flatMap((line, y) => line.flatMap((_, x) => (wanted(y, x) ? [[x, y]] : [])));
  const is_alone = (y, x) => map.mark[y][x] === "a" || map.mark[y][x] === "b";
  const size = Math.max(4, Math.min(9, 0.45 * Math.min(height, width / map.columns.length)));
  const heat = { type: "heatmap", showscale: false, xgap: 1, ygap: 1, z: map[side], zmin, zmax, hoverinfo: "none", colorscale: stops(data.colours[side]) };
  // Places without a number are there to be pointed at too.
  const floor = { ...heat, z: map.mark.map((line) => line.map(() => 0)), colorscale: [[0, css("waiting")], [1, css("waiting")]], zmin: 0, zmax: 1 };
  const drawn = [floor, heat];
  if (side === "difference") {
    drawn.push(marks(at((y, x) => map.mark[y][x] === "differs"), { symbol: "circle", size: size / 2, color: "#fff", line: { color: "#000", width: 0.8 } }));
    drawn.push(marks(at(is_alone), { symbol: "x-thin", size, color: css("mark"), line: { color: css("mark"), width: 1.4 } }));
  }
  Plotly.newPlot(plot, drawn, map_layout(map, width, height), { displayModeBar: false, doubleClick: false });
  plot.on("plotly_hover", ({ points }) => point_at(map, plot, points[0].y, points[0].x));
  plot.on("plotly_unhover", hide_card);
  plot.addEventListener("blur", hide_card);
  plot.addEventListener("keydown", (event) => walk(event, map, plot));
}

function walk(event, map, plot) {
  const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === "Escape") return hide_card();
  if (!step) return;
  event.preventDefault();
  const inside = (value, n) => Math.max(0, Math.min(n - 1, value));
  point_at(map, plot, inside(Number(plot.dataset.layer ?? map.layers.length - 1 - step[0]) + step[0], map.layers.length),
    inside(Number(plot.dataset.position ?? -step[1]) + step[1], map.columns.length));
}

// ---- the card of a place

function point_at(map, plot, layer, position) {
  const records = (map.cells[layer]?.[position] ?? []).map((record) => Object.fromEntries(data.record.map((name, index) => [name, record[index]])));
  const { xaxis, yaxis } = plot._fullLayout;
  const box = plot.getBoundingClientRect();
  const [x, y] = [box.left + xaxis._offset + xaxis.d2p(position), box.top + yaxis._offset + yaxis.d2p(layer)];
  const place = element("div", { class: "place" }, `${map.name} · layer ${map.layers[layer]} · ${map.column_name} ${map.labels[position]}`);
  const card = by_id("card");
  card.replaceChildren(place, ...(records.length ? records.flatMap(told) : [element("div", {}, "planned in neither sweep")]));
  card.hidden = false;
  card.style.left = `${Math.max(8, x + 20 + card.offsetWidth <= innerWidth ? x + 20 : x - 20 - card.offsetWidth)}px`;
  card.style.top = `${Math.max(8, Math.min(innerHeight - card.offsetHeight - 8, y - card.offsetHeight / 2))}px`;
  Object.assign(plot.dataset, { layer, position });
}

function told(record) {
  const line = (name, value, low, high, show) => element("tr", {}, element("th", {}, name),
    element("td", {}, value === null ? "–" : show(value)), element("td", {}, low === null ? "" : `${show(low)} to ${show(high)}`));
  const found = element("table", {}, element("tr", {}, ["", "", "95 %"].map((text) => element("th", {}, text))),
    line(NAMES.a, record.a, record.a_low, record.a_high, fixed), line(NAMES.b, record.b, record.b_low, record.b_high, fixed),
    data.is_one_model ? line("difference", record.difference, record.difference_low, record.difference_high, signed) : "");
  const states = ["a", "b"].filter((side) => record[side] === null).map((side) => `${NAMES[side]}: ${data.texts[record[`${side}_state`]] || "not planned"}`);
  const said = [`seed ${record.seed} · token `, element("code", {}, data.texts[record.token]), record.is_same ? " · the same key in both" : "", states.length ? ` · ${states.join(", ")}` : ""];
  return [element("div", { class: "foot" }, said), found];
}

function hide_card() {
  by_id("card").hidden = true;
}

function set_theme(theme) {
  document.documentElement.dataset.theme = theme;
  by_id("theme").textContent = theme === "dark" ? "Light" : "Dark";
  if (data.maps.length) choose(chosen.kind);
}
const system = matchMedia("(prefers-color-scheme: dark)");
by_id("theme").addEventListener("click", () => set_theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
system.addEventListener("change", () => set_theme(system.matches ? "dark" : "light"));
let last_width = innerWidth;
let resized = 0;
addEventListener("resize", () => {
  if (innerWidth === last_width || !data.maps.length) return;
  last_width = innerWidth;
  clearTimeout(resized);
  resized = setTimeout(() => choose(chosen.kind), 120);
});
addEventListener("scroll", hide_card, { passive: true });
if (!data.maps.length) by_id("maps").append("There is nothing to draw.");
set_theme(system.matches ? "dark" : "light");
