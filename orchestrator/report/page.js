"use strict";
// Draws what Python computed (the element #data) and words it. No number is worked out here but which of a place's
// seeds to speak of. All texts go in as text nodes, never as HTML.
const chosen = { model: "", method: "", setting: data.main, site: "", at: "", scale: "raw", over: "maximum" };
const SCALES = { raw: "Raw", normalised: "Normalised", excess: "Above controls" };

// ---- what is chosen

const chosen_by = (...names) => data.maps.filter((map) => names.every((name) => map[name] === chosen[name]));
const maps_now = () => chosen_by("model", "method", "setting", "site", "at");
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
  const of_method = chosen_by("model", "method");
  const seeds = unique(of_method.flatMap((map) => map.seeds)).sort((a, b) => a - b);
  const metric_of = (method) => data.maps.find((map) => map.method === method).metric;
  const method_label = (method) => words(method) + (metric_of(method) === "iia" ? "" : ` (${words(metric_of(method))}, not IIA)`);
  const seed_label = (over) => (SEEDS[over] ? SEEDS[over] : `seed ${over}`);
  const setting_label = (setting) => (setting === data.main ? "as trained" : words(setting));
  by_id("toolbar").replaceChildren(...[
    segments(),
    seeds.length > 1 ? select("over", ["maximum", "mean", ...seeds.map(String)], seed_label, (over) => choose({ over })) : null,
    select("model", unique(data.maps.map((map) => map.model)), (model) => model, (model) => choose({ model })),
    select("method", methods, method_label, (method) => choose({ method, setting: data.main })),
    select("setting", unique(of_method.map((map) => map.setting)), setting_label, (setting) => choose({ setting })),
    select("site", unique(chosen_by("model", "method", "setting").map((map) => map.site)), words, (site) => choose({ site, at: "" })),
    select("at", unique(chosen_by("model", "method", "setting", "site").map((map) => map.at)), at_label, (at) => choose({ at })),
  ].filter(Boolean));
}
function at_label(at) {
  const unit = chosen_by("model", "method", "setting", "site")[0].unit_name;
  return at === "" ? `all positions, the best ${unit} of each` : `${unit}s at position ${at}`;
}
const SEEDS = { maximum: "highest of all", mean: "mean of all" };

function choose(change) {
  Object.assign(chosen, change);
  // A model may lack what another has: of what is chosen as much stays as there is.
  const names = ["model", "method", "setting", "site", "at"];
  for (let n = 1; n < names.length; n += 1) {
    if (!chosen_by(...names.slice(0, n + 1)).length) chosen[names[n]] = chosen_by(...names.slice(0, n))[0][names[n]];
  }
  const scales = data.scales[metric_now()];
  if (!scales[chosen.scale].has_values) chosen.scale = "raw";
  if (!maps_now().some((map) => map.values.raw[chosen.over])) chosen.over = "maximum";
  pinned = false;
  hide_card();
  toolbar();
  key();
  panels();
}

// ---- the key: colours and marks

function key() {
  const { unit, range } = data.scales[metric_now()][chosen.scale];
  by_id("colourbar").replaceChildren(...scale_bar(unit, data.colours[chosen.scale], range, data.metrics[metric_now()].is_share));
  const states = maps_now().flatMap((map) => map.state[chosen.over] ?? []).flat();
  const items = Object.keys(data.states).filter((state) => states.includes(state)).map((state) =>
    element("li", {}, swatch(css(state), data.states[state]), data.states[state].label));
  if (maps_now().some((map) => map.better[chosen.over]?.flat().includes(1))) {
    items.push(element("li", {}, dot(), "more often right than without intervention (Holm)"));
  }
  by_id("marks").replaceChildren(...items);
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
  draw_curves();
}

function panel(map) {
  const label = `${map.name}: layer by ${map.at === "" ? "token position" : map.column_name}. Arrow keys walk through the places.`;
  const plot = element("div", { class: "plot", tabindex: 0, role: "application", "aria-label": label });
  const width = `max-width:${Math.max(360, 60 + 46 * map.columns.length)}px`;
  return element("div", { class: "panel", style: width }, element("h3", {},
    element("span", { title: map.name }, map.name), element("small", {}, `${progress(map)} `, saves(map, plot))),
    element("div", { class: "sub" }, headline(map)), plot);
}

// What is seen, to take along: the numbers of every seed as CSV, and the picture.
function saves(map, plot) {
  const name = [map.model, map.experiment, map.method, map.setting, map.site, map.at && `p${map.at}`, chosen.scale, chosen.over].filter(Boolean).join("_");
  const picture = (format) => Plotly.downloadImage(plot, { format, filename: name, scale: format === "png" ? 3 : 1,
    width: plot.clientWidth, height: plot.clientHeight });
  const table = () => save(`${name}.csv`, "text/csv", csv_of(map));
  return element("span", { class: "saves" }, [["CSV", table], ["PNG", () => picture("png")], ["SVG", () => picture("svg")]]
    .map(([label, onclick]) => element("button", { type: "button", class: "plain", onclick }, label)));
}

function csv_of(map) {
  const quoted = (value) => (value === null ? "" : /[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const line = (values) => values.map(quoted).join();
  const at = [...(map.model ? ["model"] : []), "experiment", "method", "setting", "site"];
  const told = data.record.filter((name) => name !== "trace");
  const places = map.layers.flatMap((layer, y) => map.columns.flatMap((column, x) => records_at(map, y, x).map((record) =>
    line([...at.map((name) => map[name]), layer, column, map.labels[x], ...told.map((name) => record[name])]))));
  return [line([...at, "layer", map.column_name, "label", ...told]), ...places].join("\n") + "\n";
}

function progress(map) {
  const states = (map.state[chosen.over] ?? []).flat().filter(Boolean);
  return `${whole(states.filter((state) => state === "done").length)} of ${whole(states.length)}`;
}

function headline(map) {
  const values = map.values[chosen.scale][chosen.over] ?? [];
  const known = values.flat().filter((value) => value !== null);
  if (!known.length) return "no number yet";
  const is_lowest = data.metrics[map.metric].best === "lowest" && chosen.scale === "raw";
  const best = is_lowest ? Math.min(...known) : Math.max(...known);
  const layer = values.findIndex((line) => line.includes(best));
  return `${is_lowest ? "lowest" : "highest"} ${fixed(best)} at layer ${map.layers[layer]}, ${map.column_name} ${map.labels[values[layer].indexOf(best)]}`;
}

function draw(map, plot) {
  const width = plot.clientWidth;
  const cell_height = cell_height_of(map);
  const layout = map_layout(map, width, cell_height);
  Plotly.newPlot(plot, traces(map, width, cell_height), layout, { displayModeBar: false, doubleClick: false });
  plot.on("plotly_hover", ({ points }) => { if (!pinned) point_at(map, plot, points[0].y, points[0].x); });
  plot.on("plotly_unhover", () => { if (!pinned) hide_card(); });
  plot.on("plotly_click", ({ points }) => pin(map, plot, points[0].y, points[0].x));
  plot.addEventListener("keydown", (event) => walk(event, map, plot));
  plot.addEventListener("blur", () => { if (!pinned) hide_card(); });
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
      colorscale: stops(colours), zmin: low, zmax: high },
    ...symbols,
    marks(at((y, x) => better[y]?.[x] === 1), { symbol: "circle", size: size / 2, color: "#fff", line: { color: "#000", width: 0.8 } }),
  ];
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
addEventListener("scroll", () => { if (!pinned) hide_card(); }, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape" && pinned) unpin(); });
addEventListener("hashchange", follow_address);

if (data.maps.length) Object.assign(chosen, { model: data.maps[0].model, method: data.maps[0].method });
else by_id("maps").append("The grid has no cells.");
set_theme(system.matches ? "dark" : "light");
if (data.maps.length) follow_address();
