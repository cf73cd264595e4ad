"use strict";
// ---- the models side by side: the best value of each, with its interval and its controls

function draw_curves() {
  const host = by_id("curves");
  if (!host) return;
  host.replaceChildren(...data.curves.map((curve) => element("div", { class: "panel" },
    element("h3", {}, element("span", { title: curve.name }, curve.name)), element("div", { class: "sub" }, curve.detail),
    element("div", { class: "plot", role: "img", "aria-label": `${curve.name}: ${curve.unit} of each model; the table below has the numbers` }))));
  data.curves.forEach((curve, index) => draw_curve(curve, host.children[index].querySelector(".plot")));
}

function draw_curve(curve, plot) {
  const places = curve.models.map((_, index) => index);
  const ends = (from, to) => from.map((value, index) => (value === null || to[index] === null ? 0 : Math.max(0, to[index] - value)));
  const best = {
    type: "scatter", mode: "lines+markers", x: places, y: curve.maximum, name: curve.unit, line: { color: css("accent"), width: 1.6 }, marker: { size: 7 },
    error_y: { type: "data", symmetric: false, array: ends(curve.maximum, curve.high), arrayminus: ends(curve.low, curve.maximum), color: css("soft"), thickness: 1, width: 3 },
    hovertemplate: "%{y:.3f}<extra></extra>",
  };
  const symbols = { none: "line-ew-open", random: "x-thin" };
  const controls = Object.entries(curve.controls).map(([name, label]) => ({
    type: "scatter", mode: "markers", x: places, y: curve[name], name: label, hovertemplate: "%{y:.3f}<extra></extra>",
    marker: { symbol: symbols[name], size: 9, color: css("soft"), line: { color: css("soft"), width: 1.6 } },
  }));
  const labels = curve.models.map((model) => (model.length > 24 ? `…${model.slice(-23)}` : model).replaceAll("<", "&lt;"));
  const axis = { fixedrange: true, zeroline: false, gridcolor: css("line"), automargin: true };
  Plotly.newPlot(plot, [best, ...controls], {
    width: plot.clientWidth, height: 250, margin: { l: 44, r: 8, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: css("soft") }, dragmode: false,
    legend: { orientation: "h", y: 1.14, x: 0 },
    xaxis: { ...axis, showgrid: false, range: [-0.4, curve.models.length - 0.6], tickvals: places, ticktext: labels },
    yaxis: { ...axis, ...(curve.is_share ? { range: [0, 1.02] } : {}) },
  }, { displayModeBar: false, doubleClick: false });
}

