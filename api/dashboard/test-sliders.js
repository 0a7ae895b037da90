// The sliders of the manual test: one per feature, over the range that the training rows of a model have.

import { sql } from "./api.js";
import { h, say } from "./dom.js";
import { FEATURE_NAMES, FEATURES, significant } from "./format.js";

/** Rows to begin with: [[name, what it is called, values in the order of the features]]. */
export const PRESETS = [
  ["normal", "Normal", [0.1, 0.05, 0.2, 0.002, 10]],
  ["price-spike", "Price Spike", [4.5, 3.8, 1.5, 0.008, 25]],
  ["volume-spike", "Volume Spike", [0.5, 0.3, 4.8, 0.003, 45]],
  ["flash-crash", "Flash Crash", [-4.2, -4.5, 3.5, 0.009, 40]],
];

const QUANTILES = [0.001, 0.05, 0.5, 0.95, 0.999];

/** Ranges that were looked up, by model version: a model's training rows do not change. */
const ranges = new Map();

/** The quantiles of a model's training rows by feature: {note, of: {feature: [five numbers]}}. */
export async function trainingRange(record, signal) {
  if (ranges.has(record.version)) return ranges.get(record.version);
  const { inputs } = record;
  const symbols = inputs.symbols.map((symbol) => `'${symbol.replaceAll("'", "''")}'`).join(", ");
  const rows = `WHERE ${inputs.predicate}${symbols ? ` AND symbol IN (${symbols})` : ""}`;
  let from = `${inputs.table} VERSION AS OF ${inputs.delta_version}`;
  let note = `training rows of version ${record.version}`;
  const found = { of: {} };
  for (const feature of FEATURE_NAMES) {
    const columns = QUANTILES.map((share, at) => `percentile_cont(${feature}, ${share}) AS q${at}`).join(", ");
    let row;
    try {
      [row] = await sql(`SELECT ${columns} FROM ${from} ${rows}`, { signal });
    } catch (error) {
      if (![404, 410].includes(error.status) || from === inputs.table) throw error;
      from = inputs.table;
      note = `version ${inputs.delta_version} of the table is gone, so the ranges are those of its present rows`;
      [row] = await sql(`SELECT ${columns} FROM ${from} ${rows}`, { signal });
    }
    if (typeof row?.q0 !== "number") throw new Error("The rows that the model was trained on are not kept any more.");
    found.of[feature] = QUANTILES.map((_, at) => row[`q${at}`]);
  }
  found.note = note;
  ranges.set(record.version, found);
  return found;
}

/** The ends and the step of a slider: the extreme quantiles, widened to hold the presets, in round steps. */
function sliderRange(at, quantiles = []) {
  const wanted = [...PRESETS.map(([, , values]) => values[at]), ...quantiles];
  const [low, high] = [Math.min(...wanted), Math.max(...wanted)];
  const step = 10 ** Math.floor(Math.log10((high - low) / 200));
  const digits = Math.max(-Math.log10(step), 0);
  const round = (steps) => Number((steps * step).toFixed(digits));
  return { min: round(Math.floor(low / step)), max: round(Math.ceil(high / step)), step };
}

/**
 * One feature: slider and number field, either of which changes the other: {node, range(quantiles), value(), set(to), unit(text),
 * problem(text)}. `onChange(isEnd)` hears of it.
 */
export function featureControl(feature, at, onChange) {
  const { name, about } = FEATURES[feature];
  const id = `test-${feature}`;
  let value = PRESETS[0][2][at];
  const unit = h("span", { class: "test-unit" }, FEATURES[feature].unit);
  const input = h("input", { type: "number", id, step: "any", "aria-describedby": `${id}-about ${id}-problem`, on: { input: () => {
    value = input.valueAsNumber;
    if (Number.isFinite(value)) slider.value = value;
    onChange(false);
  } } });
  const slider = h("input", { type: "range", id: `${id}-slider`, "aria-label": `${name}, slider`, on: {
    input: () => { take(); onChange(false); },
    change: () => { take(); onChange(true); },
  } });
  const band = h("span", { class: "test-band" });
  const median = h("span", { class: "test-median" });
  const ends = [h("span"), h("span", { class: "test-middle" }), h("span")];
  const problem = h("p", { class: "test-problem", id: `${id}-problem`, role: "alert" });
  const node = h("div", { class: "test-feature" },
    h("label", { class: "test-name", for: id }, h("strong", {}, name), h("span", { class: "hint", id: `${id}-about` }, about)),
    h("div", { class: "test-slider" }, slider, h("div", { class: "test-scale" }, band, median),
      h("div", { class: "test-ends hint" }, ends)),
    h("div", { class: "field test-number" }, input, unit), problem);

  function take() {
    value = slider.valueAsNumber;
    input.value = value;
  }

  function range(quantiles) {
    const { min, max, step } = sliderRange(at, quantiles);
    Object.assign(slider, { min, max, step });
    slider.value = value;
    const place = (of) => `${(100 * (of - min)) / (max - min)}%`;
    say(ends[0], significant(min, 3));
    say(ends[2], significant(max, 3));
    band.hidden = median.hidden = !quantiles;
    if (!quantiles) return;
    const [, low, middle, high] = quantiles;
    band.style.left = place(low);
    band.style.right = `calc(100% - ${place(high)})`;
    median.style.left = place(middle);
    say(ends[1], `${significant(low, 3)} to ${significant(high, 3)}, median ${significant(middle, 3)}`);
  }

  range();
  return {
    node,
    range,
    value: () => value,
    set(to) {
      if (to === value && input.value !== "") return;
      value = to;
      input.value = to;
      slider.value = to;
    },
    unit: (text) => say(unit, text),
    problem(text) {
      say(problem, text);
      input.setAttribute("aria-invalid", String(text !== ""));
    },
  };
}
