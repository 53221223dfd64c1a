"use strict";
// Figures as text: cards, tables, bars, plan. Names come from files of others: only textContent touches them.
const report = JSON.parse(document.getElementById("figures").textContent);
const byId = (id) => document.getElementById(id);
const [original, ...smalls] = report.models;
const state = { model: smalls[0].name, layer: null, sort: null, descending: false };

function make(tag, options = {}, ...children) {
  const { text, ...attributes } = options;
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Numbers.
const number = (value, digits = 3) =>
  new Intl.NumberFormat("en", { maximumSignificantDigits: Math.max(digits, String(Math.trunc(value)).length) }).format(value);
function count(value) {
  if (value === null) return "–";
  for (const [unit, sign] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]])
    if (Math.abs(value) >= unit) return number(value / unit) + sign;
  return number(value);
}
const times = (ratio) => (Number.isFinite(ratio) ? ratio.toFixed(2) + "×" : "–");
const percent = (share, digits = 1) => (100 * share).toFixed(digits) + " %";
const signed = (share) => (share < 0 ? "−" : "+") + Math.abs(100 * share).toFixed(2);
const error = (value) => (value === null ? "∞" : value === 0 ? "0" : value < 1e-6 ? "< 0.000001" : number(value, 2));
const interval = (estimate, format) =>
  estimate.low === null ? "" : `${format(estimate.low)} to ${format(estimate.high)}`;

const modelNamed = (name) => report.models.find((model) => model.name === name);
const latencyOf = (model, like) =>
  model.latencies.find((other) => other.engine === like.engine && other.batch === like.batch);
const methodTitle = (label) =>
  label === "dense" ? "left as it was" : label.split("+").map((name) => report.methods[name]?.title ?? name).join(", then ");

// Cards: the main figures of the chosen model.
function drawCards() {
  const small = modelNamed(state.model);
  const cards = [
    [times(original.macs / small.macs), "fewer MACs", `${count(original.macs)} → ${count(small.macs)}`],
    [times(original.params / small.params), "fewer parameters", `${count(original.params)} → ${count(small.params)}`],
  ];
  for (const before of original.latencies.slice(0, 1)) {
    const after = latencyOf(small, before);
    cards.push([times(before.ms / after.ms), `faster in ${before.engine}, batch ${before.batch}`, `${number(before.ms)} → ${number(after.ms)} ms`]);
  }
  if (small.accuracy) {
    const change = small.accuracy.top1_change;
    cards.push([signed(change.value), `points of top-1: ${percent(original.accuracy.top1.value, 2)} → ${percent(small.accuracy.top1.value, 2)}`, interval(change, signed)]);
  } else if (small.fidelity.agreement) {
    const same = small.fidelity.agreement;
    cards.push([percent(same.value), "same class as the original", interval(same, percent)]);
  }
  if (cards.length < 5 && small.fidelity) {
    const off = small.fidelity.output_error;
    cards.push([error(off.value), "output error", interval(off, error)]);
  }
  byId("cards").replaceChildren(...cards.map(([figure, what, detail]) =>
    make("li", {}, make("strong", { text: figure }), make("span", { text: what }), make("span", { text: detail }))));
}

// One row a model.
function estimateCell(estimate, format) {
  if (!estimate) return make("td", { text: "–" });
  return make("td", { text: format(estimate.value) }, make("small", { text: interval(estimate, format) }));
}

function drawModels() {
  const hasAccuracy = Boolean(original.accuracy);
  const hasTop5 = hasAccuracy && original.accuracy.top5 !== null;
  const headings = ["Model", "MACs", "Parameters", ...original.latencies.map((one) => `ms, ${one.engine}, batch ${one.batch}`)];
  if (hasAccuracy) headings.push("Top-1", "Top-1 change, points");
  if (hasTop5) headings.push("Top-5");
  headings.push("Same class", "Output error");
  const rows = report.models.map((model) => {
    const versus = (before, after, text) =>
      make("td", { text }, make("small", { text: model === original ? "" : `${times(before / after)} fewer` }));
    const row = make("tr", {}, make("th", { scope: "row", text: model.name }),
      versus(original.macs, model.macs, count(model.macs)),
      versus(original.params, model.params, count(model.params)));
    for (const before of original.latencies) {
      const own = latencyOf(model, before);
      const note = model === original ? "" : `${times(before.ms / own.ms)} faster`;
      row.append(make("td", { text: `${number(own.ms)} ± ${number(own.spread, 2)}` }, make("small", { text: note })));
    }
    if (hasAccuracy) row.append(estimateCell(model.accuracy.top1, (share) => percent(share, 2)),
      estimateCell(model === original ? null : model.accuracy.top1_change, signed));
    if (hasTop5) row.append(estimateCell(model.accuracy.top5, (share) => percent(share, 2)));
    row.append(estimateCell(model.fidelity?.agreement, percent), estimateCell(model.fidelity?.output_error, error));
    return row;
  });
  const top = make("tr", {}, ...headings.map((text) => make("th", { scope: "col", text })));
  byId("models").replaceChildren(make("thead", {}, top), make("tbody", {}, ...rows));
}

// One row a layer.
const COLUMNS = [
  { title: "Layer", key: (layer) => layer.name, text: true },
  { title: "Method", key: (layer) => layer.method, text: true },
  { title: "MACs", key: (layer) => layer.macs.before },
  { title: "Fewer", key: (layer) => layer.macs.before / layer.macs.after },
  { title: "Parameters", key: (layer) => layer.params.before },
  { title: "Output error", key: (layer) => layer.output_error ?? Infinity },
];
let rowOf = new Map();

function bar(share, kind = "") {
  return make("i", { style: `width:${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%`, class: kind });
}

function layerRow(layer, most) {
  const name = make("button", { type: "button", text: layer.name, "aria-describedby": "tip" });
  name.addEventListener("click", () => { chooseLayer(layer.name); byId("spectrum-title").focus(); });
  const row = make("tr", {},
    make("th", { scope: "row" }, name),
    make("td", { class: "left", "data-label": "Method:", text: layer.method }, make("small", { text: layer.rank ? `rank ${layer.rank}` : "" })),
    make("td", { class: "cost left", "data-label": "MACs:" },
      make("span", { class: "value", text: `${count(layer.macs.before)} → ${count(layer.macs.after)}` }),
      make("span", { class: "bars" }, bar(layer.macs.before / most.macs), bar(layer.macs.after / most.macs))),
    make("td", { "data-label": "Fewer:", text: times(layer.macs.before / layer.macs.after) }),
    make("td", { "data-label": "Parameters:" }, make("span", { class: "value", text: `${count(layer.params.before)} → ${count(layer.params.after)}` })),
    make("td", { "data-label": "Output error:" }, make("span", { class: "value", text: error(layer.output_error) }),
      make("span", { class: "bars" }, bar((layer.output_error ?? most.error) / most.error, "error"))));
  const show = (event) => showTip(layer, event);
  row.addEventListener("mouseenter", show);
  row.addEventListener("mousemove", show);
  row.addEventListener("mouseleave", hideTip);
  name.addEventListener("focus", () => { if (name.matches(":focus-visible")) showTip(layer, name); });
  name.addEventListener("blur", hideTip);
  return row;
}

function drawLayers() {
  const layers = report.layers[state.model];
  const most = {
    macs: Math.max(1, ...layers.map((layer) => layer.macs.before)),
    error: Math.max(1e-12, ...layers.map((layer) => layer.output_error ?? 0)),
  };
  rowOf = new Map(layers.map((layer) => [layer, layerRow(layer, most)]));
  const methods = ["", ...new Set(layers.map((layer) => layer.method))];
  byId("method").replaceChildren(...methods.map((value) => make("option", { value, text: value || "all" })));
  byId("spectrum-layer").replaceChildren(...layers.map(({ name }) => make("option", { value: name, text: name })));
  arrangeLayers();
  const rewritten = layers.filter(({ method }) => method !== "dense");
  const costliest = (rewritten.length ? rewritten : layers).reduce((a, b) => (b.macs.before > a.macs.before ? b : a));
  chooseLayer(layers.some(({ name }) => name === state.layer) ? state.layer : costliest.name);
}

function arrangeLayers() {
  let layers = [...report.layers[state.model]];
  if (state.sort !== null) {
    const { key, text } = COLUMNS[state.sort];
    const sign = state.descending ? -1 : 1;
    layers.sort((a, b) => sign * (text ? key(a).localeCompare(key(b), "en", { numeric: true }) : key(a) - key(b) || 0));
  }
  const wanted = byId("filter").value.toLowerCase();
  const method = byId("method").value;
  layers = layers.filter((layer) => layer.name.toLowerCase().includes(wanted) && (!method || layer.method === method));
  byId("layer-table").tBodies[0].replaceChildren(...layers.map((layer) => rowOf.get(layer)));
  byId("count").textContent = `${layers.length} of ${rowOf.size} layers`;
  byId("layer-table").querySelectorAll("thead th").forEach((heading, index) =>
    heading.setAttribute("aria-sort", index !== state.sort ? "none" : state.descending ? "descending" : "ascending"));
}

function sortBy(index) {
  // Largest first for numbers; a third press brings the model's own order back.
  const first = !COLUMNS[index].text;
  if (state.sort !== index) Object.assign(state, { sort: index, descending: first });
  else if (state.descending === first) state.descending = !first;
  else state.sort = null;
  arrangeLayers();
}

// What a layer's bars mean, in words.
function explanation(layer) {
  const lines = [`${layer.name}, ${layer.shape}: ${methodTitle(layer.method)}${layer.rank ? `, rank ${layer.rank}` : ""}`];
  const formula = report.methods[layer.method]?.formula;
  if (formula) lines.push(formula);
  lines.push(`MACs ${count(layer.macs.before)} → ${count(layer.macs.after)}, ${times(layer.macs.before / layer.macs.after)} fewer`);
  lines.push(`Parameters ${count(layer.params.before)} → ${count(layer.params.after)}`);
  lines.push(`Output error ${error(layer.output_error)}, weight error ${error(layer.weight_error)}`);
  if (layer.note) {
    const other = layer.note.runner_up ? `; the next best was ${layer.note.runner_up}, with ${error(layer.note.runner_up_error)}` : "";
    lines.push(`Predicted share in the model's output error: ${error(layer.note.error)}${other}`);
  }
  return lines;
}

function showTip(layer, where) {
  const tip = byId("tip");
  tip.replaceChildren(...explanation(layer).map((text) => make("p", { text })));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const anchor = where instanceof Element ? where.getBoundingClientRect() : { left: where.clientX + 14, bottom: where.clientY + 14, top: where.clientY };
  const below = anchor.bottom + 6 + box.height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(anchor.left, innerWidth - box.width - 8))}px`;
  tip.style.top = `${below ? anchor.bottom + 6 : Math.max(8, anchor.top - box.height - 8)}px`;
}
const hideTip = () => { byId("tip").hidden = true; };

// The plan.
const planText = () => report.plans[state.model];
async function copyPlan() {
  try {
    await navigator.clipboard.writeText(planText());
    byId("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(byId("plan-text"));
    byId("copied").textContent = "Selected: copy it with Ctrl+C.";
  }
}
function savePlan() {
  const link = make("a", { href: URL.createObjectURL(new Blob([planText()], { type: "application/json" })), download: "plan.json" });
  link.click();
  URL.revokeObjectURL(link.href);
}

function chooseModel(name) {
  state.model = name;
  drawCards();
  drawLayers();
  byId("plan-text").textContent = planText();
  byId("copied").textContent = "";
}

function start() {
  byId("title").textContent = `${original.name}, compressed`;
  document.title = `${original.name}, compressed`;
  byId("lead").textContent = `${smalls.length === 1 ? smalls[0].name : `${smalls.length} compressed models`} beside the original. Outputs were compared on ${report.images}.`;
  byId("summary-note").textContent = [report.timing, report.data].filter(Boolean).join(". ");
  byId("footer").textContent = `Measured on ${report.machine}.`;
  byId("model").replaceChildren(...smalls.map(({ name }) => make("option", { value: name, text: name })));
  byId("model-choice").hidden = smalls.length < 2;
  byId("layer-table").tHead.replaceChildren(make("tr", {}, ...COLUMNS.map(({ title, text }, index) => {
    const button = make("button", { type: "button", text: title });
    button.addEventListener("click", () => sortBy(index));
    return make("th", { scope: "col", "aria-sort": "none", class: text || title === "MACs" ? "left" : "" }, button);
  })));
  byId("model").addEventListener("change", (event) => chooseModel(event.target.value));
  byId("filter").addEventListener("input", arrangeLayers);
  byId("method").addEventListener("change", arrangeLayers);
  byId("spectrum-layer").addEventListener("change", (event) => chooseLayer(event.target.value));
  byId("copy").addEventListener("click", copyPlan);
  byId("save").addEventListener("click", savePlan);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  drawModels();
  chooseModel(state.model);
}
