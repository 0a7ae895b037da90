// What the models page says of versions: reports, drift, evaluations, history, and two versions side by side.

import { link } from "./address.js";
import { pairTable, scroller, state } from "./controls.js";
import { h } from "./dom.js";
import { ago, bytes, FEATURES, moment, NONE, number, percent, score, words } from "./format.js";

/** Metrics of reports: [[name, what it is called]]. */
export const METRICS = [["pr_auc", "PR-AUC"], ["precision", "Precision"], ["recall", "Recall"], ["f1", "F1"]];

/** A metric between 0 and 1. */
export const ratio = (value) => number(value, 3);

/** How long ago something was; the page keeps it up. */
export const age = (value) => h("time", { datetime: value, title: moment(value), data: { age: value } }, ago(value));

/** A link that opens a version. */
export const openLink = (version, text = `Version ${version}`) => h("a", { href: link("models", { version }) }, text);

/** A table: heads and rows of cells; a cell that is a number in words stands right, as its head `>Name` says. */
export function plain(heads, rows, className = "") {
  const end = (column) => (heads[column].startsWith(">") ? "end" : "");
  return h("table", { class: `plain models-table ${className}` },
    h("thead", {}, h("tr", {}, heads.map((head, column) => h("th", { scope: "col", class: end(column) }, head.replace(/^>/, ""))))),
    h("tbody", {}, rows.map((row) => h("tr", { class: row.mark, id: row.id }, row.cells.map((cell, column) =>
      h(column === 0 ? "th" : "td", { scope: column === 0 ? "row" : null, class: end(column) }, cell))))));
}

/** A titled part of a card. */
export const part = (title, ...children) => h("section", { class: "models-part" }, h("h3", {}, title), children);

const quantile = (share) => (share === 0 ? "Least" : share === 1 ? "Greatest" : percent(share, 2));

/** What a version was measured on: [[name, words, report, slice]], the most telling first. */
export function reports({ metrics, evaluations }) {
  const later = evaluations.map(({ at: when, slice, report }, place) =>
    [`evaluation-${place}`, `Evaluation of ${moment(when)}`, report, slice]).reverse();
  return [["holdout", "Holdout: newest rows, not trained on", metrics.holdout], ["training", "Training rows", metrics.training], ...later]
    .filter(([, , report]) => report);
}

/** What happened to all versions, newest first. */
export function historyOf(pages) {
  return pages.flatMap(({ model, history }) => history.map((event, order) => ({ ...event, order, version: model.version })))
    .sort((a, b) => Date.parse(b.at) - Date.parse(a.at) || b.order - a.order);
}

/** The report of each that says most: on the same rows where both were measured on some, otherwise on the holdouts. */
function comparable(one, other) {
  for (const a of [...one.evaluations].reverse()) {
    const b = other.evaluations.findLast((found) => found.slice.digest === a.slice.digest);
    if (b) return { a: a.report, b: b.report, words: `Both measured on the same ${number(a.report.rows)} rows.` };
  }
  const [a, b] = [one, other].map(({ metrics }) => metrics.holdout ?? metrics.training);
  return { a, b, words: "Measured on different rows, each on its own holdout: a small difference says little." };
}

const found = ({ detected, labelled }) => `${number(detected)} of ${number(labelled)}`;
const recall = ({ detected, labelled }) => (labelled ? detected / labelled : null);
const sum = (types) => Object.values(types).reduce((all, one) =>
  ({ detected: all.detected + one.detected, labelled: all.labelled + one.labelled }), { detected: 0, labelled: 0 });

/** What a report says. */
export function reportParts(report) {
  const { labelled, scores } = report;
  const heading = `${number(report.rows)} rows, ${moment(report.first)} to ${moment(report.last)}; ` +
    `${percent(report.detected_share, 2)} called anomalies`;
  const quantiles = part("Score quantiles", plain([">Share of rows", ">Score not above"], scores.quantiles.map(([share, value]) =>
    ({ cells: [quantile(share), score(value)] }))));
  if (!labelled) return [h("p", { class: "soft" }, `${heading}. No row has a label, so that nothing says how good it is.`), quantiles];
  const { confusion_matrix: matrix, by_type: types, episodes } = labelled;
  const sure = (name) => labelled.intervals?.[name]?.map(ratio).join(" to ") ?? NONE;
  const byType = [...Object.keys(types).map((name) => [words(name) || "Without a type", types[name], episodes.by_type[name]]),
    ["All", sum(types), sum(episodes.by_type)]];
  return [h("p", { class: "soft" }, heading),
    part("Ratios", plain(["Metric", ">Value", ">95 % interval"], METRICS.map(([name, text]) =>
      ({ cells: [text, ratio(labelled[name]), sure(name)] })))),
    part("Confusion matrix", plain(["Rows", ">Called anomaly", ">Called normal"], [
      { cells: ["Labelled anomaly", number(matrix.true_positives), number(matrix.false_negatives)] },
      { cells: ["Labelled normal", number(matrix.false_positives), number(matrix.true_negatives)] }])),
    part("Found by type", scroller("Found by type", plain(["Type", ">Events", ">Recall", ">Episodes", ">Recall"],
      byType.map(([name, rows, runs]) => ({ cells: [name, found(rows), percent(recall(rows)),
        ...(runs ? [found(runs), percent(recall(runs))] : [NONE, NONE])] })))),
      h("p", { class: "hint" },
        `${number(episodes.alarms)} alarms (runs of called events), ${number(episodes.false_alarms)} of them false.`)),
    quantiles];
}

/** What the last look for drift found. */
export function driftPart(drift) {
  if (!drift) return part("Drift", h("p", { class: "soft" }, "Nobody has looked yet: the drift job looks at the champion."));
  const features = drift.report.features ?? [];
  return part("Drift", h("p", { class: "row" }, state(drift.drifted ? "degraded" : "online", drift.drifted ? "Drifted" : "No drift"),
    h("span", { class: "hint" }, "looked ", age(drift.at))),
    scroller("Drift by feature", plain(["Feature", ">PSI", ">Limit", ">KS", ">Limit", "State"], features.map((one) => ({ cells: [
      FEATURES[one.feature]?.name ?? one.feature, ratio(one.psi), ratio(one.psi_threshold), ratio(one.ks), ratio(one.ks_threshold),
      state(one.drifted ? "degraded" : "online", one.drifted ? "Drifted" : "As trained")] })))));
}

const PARAMETERS = {
  trees: ["Trees", (model) => number(model.parameters.trees)],
  max_samples: ["Rows per tree", (model) => number(model.parameters.max_samples)],
  contamination: ["Contamination", (model) => percent(model.parameters.contamination, 2)],
  alert_quantile: ["Alert quantile", (model) => percent(model.parameters.alert_quantile, 3)],
  seed: ["Seed", (model) => model.parameters.seed],
  threshold: ["Threshold", (model) => number(model.threshold, 6)],
  code: ["Program", (model) => model.code_version],
  rows: ["Training rows", (model) => number(model.inputs.rows)],
  dropped: ["Dropped, trimmed", (model) => `${number(model.inputs.rows_dropped)}, ${number(model.inputs.rows_trimmed)}`],
  from: ["From", (model) => moment(model.inputs.from)],
  to: ["To", (model) => moment(model.inputs.to)],
  symbols: ["Markets", (model) => model.inputs.symbols.join(", ")],
  table: ["Table", (model) => `${model.inputs.table}, Delta version ${model.inputs.delta_version}`],
  predicate: ["Condition", (model) => h("code", {}, model.inputs.predicate)],
  digest: ["Digest of the rows", (model) => h("code", {}, model.inputs.digest)],
  specification: ["Hash of the features", (model) => h("code", {}, model.specification_hash)],
  hash: ["Artifact, SHA-256", (model) => h("code", {}, model.artifact_sha256)],
  size: ["Artifact, size", (model) => bytes(model.artifact_bytes)],
};

/** Some of the parameters of a version, by the names that they have here. */
export const some = (names, model) => pairTable(names.map((name) => [PARAMETERS[name][0], PARAMETERS[name][1](model)]));

/** All evaluations of a version, newest first. */
export function evaluationsPart({ evaluations }) {
  if (!evaluations.length) return part("Evaluations", h("p", { class: "soft" }, "None yet."));
  return part("Evaluations", scroller("Evaluations", plain(["When", ">Rows", ...METRICS.map(([, text]) => `>${text}`), "Gates"],
    [...evaluations].reverse().map(({ at: when, report }) => ({ cells: [age(when), number(report.rows),
      ...METRICS.map(([name]) => ratio(report.labelled?.[name])),
      report.gates?.map((gate) => h("div", {}, state(gate.passed ? "online" : "failed", `${gate.gate}: ${gate.found}`))) ?? NONE] })))));
}

const HAPPENED_STATES = { promoted: "champion", rejected: "failed" };

/** Something that happened to a version, as an item of a list. */
export const happened = ({ at: when, what, who, why, version }) => h("li", { class: what === "promoted" ? "is-promotion" : "" },
  h("div", { class: "row" }, openLink(version), state(HAPPENED_STATES[what] ?? what, words(what)),
    h("span", {}, `by ${who}`), h("span", { class: "hint" }, age(when), ` · ${moment(when)}`)), why && h("p", { class: "soft" }, why));

/** Two versions side by side. */
export function comparison(one, other) {
  const { a, b, words: basis } = comparable(one, other);
  const names = [one, other].map(({ model }) => `Version ${model.version}`);
  const heads = names.map((name) => `>${name}`);
  const texts = Object.values(PARAMETERS).map(([name, of]) => [name, of(one.model), of(other.model)]);
  const text = (cell) => cell.textContent ?? cell;
  const rows = (report) => report?.labelled?.episodes;
  const measures = [...METRICS.map(([name, label]) => [label, a?.labelled?.[name], b?.labelled?.[name], 1, ratio]),
    ["Recall of episodes", rows(a) && recall(sum(rows(a).by_type)), rows(b) && recall(sum(rows(b).by_type)), 1, ratio],
    ["False alarms", rows(a)?.false_alarms, rows(b)?.false_alarms, -1, number],
    ["Called anomalies", a?.detected_share, b?.detected_share, 0, (value) => percent(value, 2)]];
  const better = (difference, sense) => {
    if (!difference || !sense) return "";
    return h("span", { class: "state state-good" }, `▲ ${names[difference * sense > 0 ? 0 : 1]}`);
  };
  return [h("p", { class: "soft" }, basis),
    part("Metrics", scroller("Metrics compared", plain(["Metric", ...heads, ">Difference", "Better"],
      measures.map(([name, left, right, sense, shown]) => {
        const difference = Number.isFinite(left) && Number.isFinite(right) ? left - right : null;
        const signed = difference > 0 ? `+${shown(difference)}` : shown(difference);
        return { cells: [name, shown(left), shown(right), signed, better(difference, sense)] };
      })))),
    part("Score quantiles", scroller("Score quantiles compared", plain([">Share of rows", ...heads, ">Difference"],
      (b?.scores.quantiles ?? []).map(([share, right]) => {
        const left = a?.scores.quantiles.find(([of]) => of === share)?.[1];
        return { cells: [quantile(share), score(left), score(right), score(left - right)] };
      })))),
    h("div", { class: "models-wide" }, part("Parameters and data", scroller("Parameters compared",
      plain(["Name", ...names, "Note"], texts.map(([name, left, right]) => {
        const differs = text(left) !== text(right);
        return { mark: differs ? "models-differs" : "", cells: [name, left, right, differs ? "≠ differs" : ""] };
      }), "models-parameters"))))];
}
