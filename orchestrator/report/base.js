"use strict";
// What the scripts of both pages share: the data, elements, numbers in words. All texts go in as text nodes, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const by_id = (id) => document.getElementById(id);

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

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}
const marks = (places, marker) => ({ type: "scatter", mode: "markers", hoverinfo: "skip", marker,
  x: places.map(([x]) => x), y: places.map(([, y]) => y) });

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// A colour scale with numbers below it: shares in steps of 0.05 to 1, other numbers in those of their decade.
function scale_bar(label, colours, [low, high], is_share) {
  const decade = 10 ** Math.floor(Math.log10((high - low) / 8));
  const sizes = is_share ? [0.05, 0.1, 0.2, 0.25, 0.5, 1] : [1, 2, 5, 10, 20].map((size) => size * decade);
  const step = sizes.find((size) => (high - low) / size <= 8 + 1e-9) ?? 1;
  const digits = step < 0.1 ? Math.max(2, Math.ceil(-Math.log10(step))) : step === 0.25 ? 2 : step >= 1 && !is_share ? 0 : 1;
  const numbers = Array.from({ length: 1 + Math.floor((high - low) / step + 1e-6) }, (_, index) => (Math.ceil(low / step - 1e-6) + index) * step);
  const ticks = numbers.filter((number) => number <= high + 1e-6).map((number) =>
    element("span", { style: `left:${(100 * (number - low)) / (high - low)}%` }, fixed(number, digits)));
  return [label, element("div", { class: "bar", style: `background:linear-gradient(90deg,${colours.join()})` }),
    element("div", { class: "ticks" }, ticks)];
}

// What every map has in common: its axes, with as many labels as there is room for.
function map_layout(map, width, cell_height) {
  const left = 40;
  const every = Math.ceil(11 / Math.max(1, (width - left - 8) / map.labels.length));
  const bottom = 12 + 6.1 * Math.min(20, Math.max(...map.labels.map((label) => label.length)));
  const shown = map.labels.map((label, index) => [index, label]).filter(([index]) => index % every === 0);
  const font = { family: getComputedStyle(document.body).fontFamily, size: 11, color: css("soft") };
  const axis = { fixedrange: true, showgrid: false, zeroline: false, showline: false, ticks: "", automargin: false };
  return {
    width, height: map.layers.length * cell_height + bottom + 6, margin: { l: left, r: 4, t: 6, b: bottom },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font, showlegend: false, hovermode: "closest", dragmode: false,
    xaxis: { ...axis, range: [-0.5, map.labels.length - 0.5], tickangle: -90, tickvals: shown.map(([index]) => index),
      ticktext: shown.map(([, label]) => (label.length > 20 ? label.slice(0, 19) + "…" : label).replaceAll("<", "&lt;")) },
    yaxis: { ...axis, range: [-0.5, map.layers.length - 0.5], tickvals: map.layers.map((_, index) => index),
      ticktext: map.layers.map(String), title: { text: "layer", standoff: 4 } },
  };
}
const cell_height_of = (map) => Math.min(30, Math.max(13, 300 / map.layers.length));
const stops = (colours) => colours.map((colour, index) => [index / (colours.length - 1), colour]);
