"use strict";
// How a pinned cell learned, what it does on a few pairs, and how to load what it learned. Read when it is first asked for.
let learned = null;

function trace_of(record) {
  if (record.trace === null) return null;
  learned ??= JSON.parse(by_id("traces").textContent);
  const [is_aligned, loss_step, loss, iia_step, n_correct, n_total, pairs, before, after] = learned.cells[record.trace];
  const text = (index) => learned.texts[index];
  const steps = (index) => (index === null ? [] : learned.steps[index]);
  const examples = pairs === null ? [] : learned.pairs[pairs].map(([base, source, variable, label], row) => ({
    base: text(base), source: text(source), variable: text(variable), label: text(label), before: text(before[row]), after: text(after[row]) }));
  return { is_aligned, examples, n_total, loss: steps(loss_step).map((step, index) => [step, loss[index]]),
    iia: steps(iia_step).map((step, index) => [step, n_correct[index] / n_total]) };
}

// ---- curves: one line a seed

function curves(records) {
  const known = records.map((record) => ({ seed: record.seed, trace: trace_of(record) })).filter(({ trace }) => trace);
  const lines = (name) => known.map(({ seed, trace }) => ({ seed, points: trace[name] })).filter(({ points }) => points.length > 1);
  const n_total = known.find(({ trace }) => trace.iia.length)?.trace.n_total;
  return [chart("Loss", lines("loss")), chart(`IIA on ${whole(n_total ?? 0)} validation pairs`, lines("iia"))].filter(Boolean);
}

function chart(title, lines) {
  if (!lines.length) return null;
  const [width, height, left, bottom] = [318, 96, 40, 16];
  const all = lines.flatMap(({ points }) => points.filter(([, value]) => Number.isFinite(value)));
  const last = Math.max(...all.map(([step]) => step));
  const [low, high] = [Math.min(...all.map(([, value]) => value)), Math.max(...all.map(([, value]) => value))];
  const x = (step) => left + ((width - left - 4) * step) / last;
  const y = (value) => 6 + (height - bottom - 12) * (high > low ? (high - value) / (high - low) : 0.5);
  const label = (text, at, anchor = "end") => svg("text", { ...at, "text-anchor": anchor, "font-size": 10, fill: css("soft") }, text);
  const drawn = lines.map(({ seed, points }, index) => svg("polyline", { fill: "none", stroke: css("accent"), "stroke-width": 1.5,
    "stroke-opacity": 1 - (0.6 * index) / lines.length, points: points.map(([step, value]) => `${x(step)},${y(value)}`).join(" ") },
    svg("title", {}, `seed ${seed}`)));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", role: "img", "aria-label": `${title}: ${said(lines[0].points)}` },
    svg("line", { x1: left, x2: width - 4, y1: height - bottom, y2: height - bottom, stroke: css("line") }),
    label(fixed(high), { x: left - 4, y: 12 }), label(fixed(low), { x: left - 4, y: height - bottom - 1 }),
    label("0", { x: left, y: height - 4 }, "start"), label(`${whole(last)} steps`, { x: width - 4, y: height - 4 }), ...drawn);
  return element("div", { class: "chart" }, element("div", { class: "place" }, `${title}: ${said(lines[0].points)}`), picture);
}
const said = (points) => `${fixed(points[0][1])} after ${whole(points[0][0])}, ${fixed(points.at(-1)[1])} after ${whole(points.at(-1)[0])} steps`;

// ---- pairs

function examples(told) {
  const pairs = trace_of(told)?.examples ?? [];
  if (!pairs.length) return null;
  const hits = pairs.filter((pair) => pair.after === pair.label).length;
  return element("details", { class: "pairs" }, element("summary", {}, `${pairs.length} test pairs, as trained: ${hits} give the label`),
    pairs.map(one_pair));
}

function one_pair({ base, source, variable, label, before, after }) {
  const [start, end] = [common(base, source), common([...base].reverse().join(""), [...source].reverse().join(""))];
  const answer = (text) => element("code", {}, shown(text));
  return element("div", { class: `pair ${after === label ? "hit" : "miss"}` },
    element("div", { title: base }, element("span", { class: "name" }, "base "), ...different(base, start, end)),
    element("div", { title: source }, element("span", { class: "name" }, "source "), ...different(source, start, end)),
    element("div", {}, "says ", answer(before), ", under the intervention on ", words(variable), " ", answer(after),
      after === label ? " ✓" : [" ✗, label ", answer(label)]));
}
const shown = (text) => (text === "" ? "∅" : text.replaceAll("\n", "\\n"));

function common(one, other) {
  let n = 0;
  while (n < one.length && n < other.length && one[n] === other[n]) n += 1;
  return n;
}

// What differs between two prompts, in bold, with a little of what is around it.
function different(text, start, end) {
  const stop = Math.max(start, text.length - end);
  const from = Math.max(0, start - 24);
  const behind = text.slice(stop, stop + 16);
  return [from > 0 ? "…" : "", shown(text.slice(from, start)), element("b", {}, shown(text.slice(start, stop)) || "∅"), behind === "" ? "" : shown(behind), stop + 16 < text.length ? "…" : ""];
}

// ---- the alignment

function loading(map, layer, position, told) {
  if (!trace_of(told)?.is_aligned) return null;
  const place = map.at === "" ? map.columns[position] : parseInt(map.at, 10);
  const named = { experiment: map.experiment, layer: map.layers[layer], position: place, seed: told.seed, method: map.method, site: map.site,
    ...(told.unit === null ? {} : { unit: told.unit }) };
  const given = Object.entries(named).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", ");
  const command = `from causalsweep import Sweep\nalignment = Sweep.load(${JSON.stringify(document.title)}).alignment(${given})`;
  const copy = () => navigator.clipboard?.writeText(command);
  return element("div", {}, element("pre", { class: "command" }, command),
    element("button", { type: "button", class: "plain", onclick: copy }, "Copy what loads its alignment"));
}
