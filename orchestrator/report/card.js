"use strict";
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
  card.replaceChildren(...(pinned ? [closer()] : []), ...card_of(map, layer, position, records), ...(pinned ? more(map, layer, position, records) : []));
  card.classList.toggle("pinned", pinned);
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

// ---- a place that stays: a click, Enter, or an address that names it

let pinned = false;
const SHOWN = ["model", "method", "setting", "site", "at", "scale", "over"];

function pin(map, plot, layer, position) {
  pinned = true;
  point_at(map, plot, layer, position);
  history.replaceState(null, "", address(map, layer, position));
}

function address(map, layer, position) {
  const named = { experiment: map.experiment, layer: map.layers[layer], column: map.columns[position] };
  return `#${new URLSearchParams({ ...named, ...Object.fromEntries(SHOWN.map((name) => [name, chosen[name]])) })}`;
}

function follow_address() {
  const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const wanted = Object.fromEntries(SHOWN.filter((name) => name in asked).map((name) => [name, asked[name]]));
  const there = data.maps.some((map) => ["model", "method", "setting", "site", "at"].every((name) => map[name] === (wanted[name] ?? chosen[name])));
  if (!asked.experiment || !there || !((wanted.scale ?? "raw") in SCALES)) return;
  choose(wanted);
  const index = maps_now().findIndex((map) => map.experiment === asked.experiment);
  if (index < 0) return;
  const map = maps_now()[index];
  const [layer, position] = [map.layers.indexOf(Number(asked.layer)), map.columns.indexOf(Number(asked.column))];
  if (layer < 0 || position < 0) return;
  const plot = by_id("panels").children[index].querySelector(".plot");
  plot.scrollIntoView({ block: "center", behavior: "instant" });
  pin(map, plot, layer, position);
}

function unpin() {
  pinned = false;
  history.replaceState(null, "", location.pathname + location.search);
  hide_card();
}

const closer = () => element("button", { type: "button", class: "close", "aria-label": "close", onclick: unpin }, "×");

// What only a pinned card has room for: the same place elsewhere, and its numbers to take along.
function more(map, layer, position, records) {
  const alike = (other) => other.experiment === map.experiment && other.at === map.at && other.metric === map.metric;
  const same = (other) => alike(other) && other.model === map.model;
  const value_at = (other) => other.values.raw[chosen.over]?.[other.layers.indexOf(map.layers[layer])]?.[other.columns.indexOf(map.columns[position])] ?? null;
  const lines = (maps, label) => maps.map((other) => [label(other), value_at(other)]).filter(([, value]) => value !== null)
    .map(([name, value]) => element("tr", {}, element("th", {}, name), element("td", {}, fixed(value))));
  const settings = data.maps.filter((other) => same(other) && other.method === map.method && other.site === map.site);
  const methods = data.maps.filter((other) => same(other) && other.setting === map.setting && other.site === map.site);
  // Of another model the place must be the same token: positions are counted in each model's own tokens.
  const token_of = (other) => other.labels[other.columns.indexOf(map.columns[position])];
  const models = data.maps.filter((other) => alike(other) && ["method", "setting", "site"].every((name) => other[name] === map[name])
    && token_of(other) === token_of(map));
  const tables = [
    ["Other models", models, (other) => other.model],
    ["Other data", settings, (other) => (other.setting === data.main ? "as trained" : words(other.setting))],
    ["Other methods", methods, (other) => words(other.method)],
  ].filter(([, maps]) => maps.length > 1).map(([name, maps, label]) =>
    element("table", {}, element("tr", {}, element("th", {}, name)), lines(maps, label)));
  const told = told_of(map, records);
  const copy = () => navigator.clipboard?.writeText(JSON.stringify(records, (name, value) => (name === "trace" ? undefined : value), 1));
  return [...curves(records), examples(told), ...tables, loading(map, layer, position, told), element("div", { class: "foot" }, element("a", { href: address(map, layer, position) }, "Link to this place"), " · ",
    element("button", { type: "button", class: "plain", onclick: copy }, "Copy its numbers"))].filter(Boolean);
}

function hide_card() {
  by_id("card").hidden = true;
  if (outlined?.isConnected) Plotly.relayout(outlined, { shapes: [] });
  outlined = null;
}

function walk(event, map, plot) {
  const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === "Escape") return pinned ? unpin() : hide_card();
  if (event.key === "Enter" && plot.dataset.layer) return pin(map, plot, Number(plot.dataset.layer), Number(plot.dataset.position));
  if (!step) return;
  event.preventDefault();
  const inside = (value, n) => Math.max(0, Math.min(n - 1, value));
  const layer = inside(Number(plot.dataset.layer ?? map.layers.length - 1 - step[0]) + step[0], map.layers.length);
  const position = inside(Number(plot.dataset.position ?? -step[1]) + step[1], map.columns.length);
  plot.dataset.layer = layer;
  plot.dataset.position = position;
  if (pinned) pin(map, plot, layer, position);
  else point_at(map, plot, layer, position);
}

// Of a place's cells the one that is spoken of: that of the chosen seed, or the best.
function told_of(map, records) {
  const done = records.filter((record) => record.state === "done");
  const sign = data.metrics[map.metric].best === "lowest" ? -1 : 1;
  const best = done.reduce((a, b) => (a === null || sign * b.value > sign * a.value ? b : a), null);
  return records.find((record) => String(record.seed) === chosen.over) ?? best ?? records[0];
}

function card_of(map, layer, position, records) {
  const done = records.filter((record) => record.state === "done");
  const told = told_of(map, records);
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
  const { title, unit, is_share, changes_model } = data.metrics[map.metric];
  const metric = unit === "" ? title : `${title} (${unit})`;
  const is_mean = chosen.over === "mean" && done.length > 1;
  const counted = ["iia", "decoding"].includes(map.metric) ? `${whole(told.n_correct)} of ${whole(told.n_total)}`
    : `${whole(told.n_total)} ${is_share || changes_model ? "pairs" : "prompts"}`;
  const interval = `${fixed(told.low)} to ${fixed(told.high)} (95 %), ${counted}`;
  const [least, most] = [Math.min, Math.max].map((pick) => fixed(pick(...done.map((one) => one.value))));
  const big = element("div", { class: "big" }, `${metric} ${fixed(is_mean ? value : told.value)}`,
    element("span", {}, is_mean ? `mean of ${done.length} seeds` : `seed ${told.seed}`));
  const detail = is_mean ? `${least} to ${most} over seeds. Of the highest, seed ${told.seed}: ${interval}` : interval;
  return [big, element("div", {}, detail), numbers(map, told, metric), test(told)].filter(Boolean);
}

function numbers(map, told, metric) {
  const is_iia = map.metric === "iia";
  const { null: control, best } = data.metrics[map.metric];
  const above = is_iia ? "above its controls" : `${best === "lowest" ? "below" : "above"} its control`;
  const lines = [[metric, told.value, told.normalised], ["no intervention", told.none, told.none_normalised],
    ["whole vector swapped", told.full, told.full_normalised], [control, told.random, told.random_normalised],
    [above, told.excess, null], ["balanced accuracy", told.balanced, null], ["chance, balanced", told.chance, null],
    ["F1", told.f1, null], ["Matthews correlation", told.mcc, null],
    ["task accuracy", told.task, 1], [is_iia ? "majority label" : "majority class", told.dummy, 0]];
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
