"use strict";
// The two charts, by Vega-Lite: a layer's spectrum, and cost against quality. Vega's SVG keeps text as text.
const COLOURS = ["#3b82c4", "#d9622b", "#2a9d76", "#b070b0", "#c8961e", "#4aa3d8", "#888888"];
const CONFIG = {
  background: "transparent",
  view: { stroke: null },
  axis: { labelFontSize: 12, titleFontSize: 13, titleFontWeight: "normal" },
  legend: { labelFontSize: 12, titleFontSize: 13, orient: "bottom", labelLimit: 320, symbolStrokeWidth: 2 },
};
const drawn = new Map();

async function draw(id, spec) {
  const wide = byId(id).clientWidth > 500;
  const whole = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    width: "container", height: wide ? 320 : 260, autosize: { type: "fit", contains: "padding" },
    config: { ...CONFIG, legend: { ...CONFIG.legend, columns: wide ? 2 : 1 } }, ...spec,
  };
  const previous = drawn.get(id);
  const result = await vegaEmbed(`#${id}`, whole, { renderer: "svg", actions: false });
  drawn.set(id, result);
  previous?.finalize();
}

// A layer's spectrum.
function chooseLayer(name) {
  state.layer = name;
  byId("spectrum-layer").value = name;
  const layer = report.layers[state.model].find((other) => other.name === name);
  const spectra = report.spectra[name];
  byId("spectrum-text").textContent = `${explanation(layer).slice(0, 3).join(". ")}.`;
  const titles = Object.keys(spectra.curves).map((method) => report.methods[method].title);
  const points = Object.entries(spectra.curves).flatMap(([method, curve]) =>
    curve.map(([rank, macs, energy]) => ({ method: report.methods[method].title, rank, macs, energy })));
  byId("spectrum-numbers").hidden = byId("spectrum-chart").hidden = points.length === 0;
  if (points.length === 0) {
    byId("spectrum-text").textContent += ` No spectrum: ${spectra.why_none}.`;
    return;
  }
  const heading = make("tr", {}, ...["Method", "Rank", "MACs, of the original's", "Energy kept"].map((text) => make("th", { scope: "col", text })));
  byId("spectrum-table").replaceChildren(make("thead", {}, heading), make("tbody", {}, ...points.map((point) =>
    make("tr", {}, make("th", { scope: "row", text: point.method }), make("td", { text: point.rank }),
      make("td", { text: percent(point.macs) }), make("td", { text: percent(point.energy, 2) })))));
  const marks = [{ macs: 1, label: "original" }];
  if (layer.method !== "dense") marks.push({ macs: layer.macs.after / layer.macs.before, label: "chosen" });
  const encoding = {
    x: { field: "macs", type: "quantitative", title: "MACs, share of the original layer's", axis: { format: ".0%" }, scale: { domain: [0, 1.2] } },
    y: { field: "energy", type: "quantitative", title: "energy kept", axis: { format: ".0%" }, scale: { domain: [0, 1] } },
  };
  const scale = { domain: titles, range: COLOURS };
  draw("spectrum-chart", {
    description: `Energy that each method keeps of layer ${name}, against its MACs`,
    layer: [
      {
        data: { values: points },
        mark: { type: "line", point: { size: 45, filled: true }, clip: true },
        encoding: {
          ...encoding,
          color: { field: "method", type: "nominal", title: null, scale },
          strokeDash: { field: "method", type: "nominal", title: null, scale: { domain: titles } },
          shape: { field: "method", type: "nominal", title: null, scale: { domain: titles } },
          tooltip: [
            { field: "method" }, { field: "rank" },
            { field: "macs", title: "MACs", format: ".1%" }, { field: "energy", title: "energy kept", format: ".2%" },
          ],
        },
      },
      { data: { values: marks }, mark: { type: "rule", color: "#888888", strokeDash: [2, 3], strokeWidth: 1.5 }, encoding: { x: encoding.x } },
      { data: { values: marks }, mark: { type: "text", align: "right", dx: -4, baseline: "bottom" }, encoding: { x: encoding.x, y: { value: { expr: "height - 6" } }, text: { field: "label" } } },
    ],
  });
}

// Cost against quality, where there are several compressed models.
function costs() {
  const found = [["MACs", (model) => model.macs], ["Parameters", (model) => model.params]];
  for (const like of original.latencies) found.push([`ms, ${like.engine}, batch ${like.batch}`, (model) => latencyOf(model, like).ms]);
  return found;
}
function qualities() {
  const perfect = { value: 1, low: 1, high: 1 };
  const found = [];
  if (original.accuracy) found.push(["Top-1 accuracy", (model) => model.accuracy.top1, 1]);
  if (original.accuracy?.top5) found.push(["Top-5 accuracy", (model) => model.accuracy.top5, 1]);
  if (smalls[0].fidelity.agreement) found.push(["Same class as the original", (model) => model.fidelity?.agreement ?? perfect, 1]);
  found.push(["Output error", (model) => model.fidelity?.output_error ?? { value: 0, low: 0, high: 0 }, -1]);
  return found;
}

function drawTradeoff() {
  const [costTitle, cost] = costs()[byId("tradeoff-x").value];
  const [title, quality, sign] = qualities()[byId("tradeoff-y").value];
  const points = report.models.map((model) => {
    const { value, low, high } = quality(model);
    return { name: model.name, cost: cost(model), quality: value, low: low ?? value, high: high ?? value };
  });
  for (const point of points)
    point.front = !points.some((other) => other.cost <= point.cost && sign * other.quality >= sign * point.quality &&
      (other.cost < point.cost || sign * other.quality > sign * point.quality));
  const format = sign > 0 ? ".1%" : ".2~g";
  const x = { field: "cost", type: "quantitative", title: costTitle, axis: { format: ".3~s" }, scale: { domainMin: 0 } };
  const y = { type: "quantitative", title, axis: { format }, scale: { zero: sign < 0 } };
  draw("tradeoff-chart", {
    description: `${title} against ${costTitle} of every model`,
    data: { values: points },
    layer: [
      { transform: [{ filter: "datum.front" }], mark: { type: "line", color: COLOURS[0], strokeWidth: 1.5 }, encoding: { x, y: { ...y, field: "quality" } } },
      { mark: { type: "rule", color: COLOURS[6] }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" } } },
      {
        mark: { type: "point", size: 90, filled: true, opacity: 1, color: COLOURS[0] },
        encoding: {
          x, y: { ...y, field: "quality" },
          shape: { field: "front", type: "nominal", legend: null, scale: { domain: [true, false], range: ["circle", "cross"] } },
          tooltip: [{ field: "name", title: "model" }, { field: "cost", title: costTitle, format: ".4~s" }, { field: "quality", title, format }, { field: "low", format }, { field: "high", format }],
        },
      },
      { mark: { type: "text", align: "right", dx: -8, dy: -8, limit: 200 }, encoding: { x, y: { ...y, field: "quality" }, text: { field: "name" } } },
    ],
  });
}

function startTradeoff() {
  if (smalls.length < 2) return;
  byId("tradeoff").hidden = false;
  for (const [id, choices] of [["tradeoff-x", costs()], ["tradeoff-y", qualities()]]) {
    byId(id).replaceChildren(...choices.map(([text], value) => make("option", { value, text })));
    byId(id).addEventListener("change", drawTradeoff);
  }
  drawTradeoff();
}

start();
startTradeoff();
