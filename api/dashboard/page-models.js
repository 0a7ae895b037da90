// Models: every version, how good it is and was, what happened to it; two side by side; who is champion, and another one.

import { change, link } from "./address.js";
import { get, post } from "./api.js";
import { events } from "./app.js";
import { chart } from "./charts.js";
import { askReason, button, card, choice, empty, failure, loading, select, state, toast, waiting } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { ago, bytes, chartTime, FEATURES, NONE, number, percent, score, time, words, zoneName } from "./format.js";

const PAGE = 30;
const AT_ONCE = 4;
const WAIT_MS = 2_000;
const METRICS = [["pr_auc", "PR-AUC"], ["precision", "Precision"], ["recall", "Recall"], ["f1", "F1"]];
const COLOURS = ["line", "anomaly", "second", "third", "fourth"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];

const ratio = (value) => number(value, 3);
const at = (value) => `${time(value, "both")} ${zoneName()}`;
const age = (value) => h("time", { datetime: value, title: at(value), data: { age: value } }, ago(value));
const openLink = (version, text = `Version ${version}`) => h("a", { href: link("models", { version }) }, text);
const scroller = (label, child) => h("div", { class: "scroll-x", tabindex: "0", role: "region", "aria-label": label }, child);

/** A table: heads and rows of cells; a cell that is a number in words stands right, as its head `>Name` says. */
function plain(heads, rows, className = "") {
  const end = (column) => (heads[column].startsWith(">") ? "end" : "");
  return h("table", { class: `plain models-table ${className}` },
    h("thead", {}, h("tr", {}, heads.map((head, column) => h("th", { scope: "col", class: end(column) }, head.replace(/^>/, ""))))),
    h("tbody", {}, rows.map((row) => h("tr", { class: row.mark, id: row.id }, row.cells.map((cell, column) =>
      h(column === 0 ? "th" : "td", { scope: column === 0 ? "row" : null, class: end(column) }, cell))))));
}

const pairs = (rows) => h("table", { class: "plain pairs" }, h("tbody", {}, rows.map(([name, value]) =>
  h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value ?? NONE)))));

const part = (title, ...children) => h("section", { class: "models-part" }, h("h3", {}, title), children);
const quantile = (share) => (share === 0 ? "Least" : share === 1 ? "Greatest" : percent(share, 2));

/** What a version was measured on: [[name, words, report, slice]], the most telling first. */
function reports({ metrics, evaluations }) {
  const later = evaluations.map(({ at: when, slice, report }, place) =>
    [`evaluation-${place}`, `Evaluation of ${at(when)}`, report, slice]).reverse();
  return [["holdout", "Holdout: newest rows, not trained on", metrics.holdout], ["training", "Training rows", metrics.training], ...later]
    .filter(([, , report]) => report);
}

/** What happened to all versions, newest first. */
function historyOf(pages) {
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

function reportParts(report) {
  const { labelled, scores } = report;
  const heading = `${number(report.rows)} rows, ${at(report.first)} to ${at(report.last)}; ` +
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

function driftPart(drift) {
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
  from: ["From", (model) => at(model.inputs.from)],
  to: ["To", (model) => at(model.inputs.to)],
  symbols: ["Markets", (model) => model.inputs.symbols.join(", ")],
  table: ["Table", (model) => `${model.inputs.table}, Delta version ${model.inputs.delta_version}`],
  predicate: ["Condition", (model) => h("code", {}, model.inputs.predicate)],
  digest: ["Digest of the rows", (model) => h("code", {}, model.inputs.digest)],
  specification: ["Hash of the features", (model) => h("code", {}, model.specification_hash)],
  hash: ["Artifact, SHA-256", (model) => h("code", {}, model.artifact_sha256)],
  size: ["Artifact, size", (model) => bytes(model.artifact_bytes)],
};

const some = (names, model) => pairs(names.map((name) => [PARAMETERS[name][0], PARAMETERS[name][1](model)]));

function evaluationsPart({ evaluations }) {
  if (!evaluations.length) return part("Evaluations", h("p", { class: "soft" }, "None yet."));
  return part("Evaluations", scroller("Evaluations", plain(["When", ">Rows", ...METRICS.map(([, text]) => `>${text}`), "Gates"],
    [...evaluations].reverse().map(({ at: when, report }) => ({ cells: [age(when), number(report.rows),
      ...METRICS.map(([name]) => ratio(report.labelled?.[name])),
      report.gates?.map((gate) => h("div", {}, state(gate.passed ? "online" : "failed", `${gate.gate}: ${gate.found}`))) ?? NONE] })))));
}

const HAPPENED_STATES = { promoted: "champion", rejected: "failed" };

const happened = ({ at: when, what, who, why, version }) => h("li", { class: what === "promoted" ? "is-promotion" : "" },
  h("div", { class: "row" }, openLink(version), state(HAPPENED_STATES[what] ?? what, words(what)),
    h("span", {}, `by ${who}`), h("span", { class: "hint" }, age(when), ` · ${at(when)}`)), why && h("p", { class: "soft" }, why));

/** Two versions side by side. */
function comparison(one, other) {
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

/** Fills the page. */
export function mount(root, start) {
  let query = start;
  let models = null;
  let ended = false;
  let refreshing = null;
  let again = 0;
  let drawn = "";
  let known = null;
  const pages = new Map();
  const place = h("div", { class: "page-parts stack" }, loading("Asking for the models", 640));
  const outcome = h("div", { id: "models-outcome", role: "status" });
  const canvas = h("div", { class: "models-chart", id: "models-chart" });
  const graph = chart(canvas, "Metrics of every version over time");
  const metric = choice("Metric", METRICS, start.metric ?? "pr_auc", (name) => change({ metric: name }));
  metric.node.id = "models-metric";
  fill(root, outcome, place);

  const champion = () => models.find((model) => model.status === "champion");
  const many = () => Number(query.shown) || PAGE;
  const opened = () => Number(query.version) || null;
  const compared = () => Number(query.compare) || null;

  /** The versions of which more is asked for: the newest, former champions, and those that the address names. */
  function wanted() {
    const reigned = models.filter((model) => ["champion", "retired"].includes(model.status)).slice(0, PAGE);
    return [...new Set([...models.slice(0, many()), ...reigned].map((model) => model.version).concat(opened() ?? [], compared() ?? []))];
  }

  async function refresh() {
    refreshing?.abort();
    const asking = new AbortController();
    refreshing = asking;
    const { signal } = asking;
    clearTimeout(again);
    try {
      const list = await get("/models", {}, { signal });
      if (signal.aborted) return;
      models = list;
      if (!models.length) return await wait(signal);
      const left = wanted();
      const one = async () => {
        for (let version = left.shift(); version; version = left.shift()) {
          const page = await get(`/models/${version}`, {}, { signal }).catch((error) => {
            if (error.status === 404) return null;
            throw error;
          });
          if (page) pages.set(version, page);
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, one));
      if (!signal.aborted) draw();
    } catch (error) {
      if (signal.aborted || ended) return;
      drawn = "";
      fill(place, card("Models", {}, failure(error, refresh)));
    }
  }

  async function wait(signal) {
    const parts = await get("/system-status", {}, { signal });
    fill(place, card("Models", {}, waiting(parts.services.find((one) => one.name === "Model")?.details)));
    again = setTimeout(refresh, WAIT_MS);
  }

  const shownPages = () => models.map((model) => pages.get(model.version)).filter(Boolean);

  function draw(force = false) {
    if (!models?.length) return;
    const now = JSON.stringify([query, models, [...pages.values()]]);
    if (now === drawn && !force) return;
    drawn = now;
    const focused = document.activeElement;
    metric.set(query.metric ?? "pr_auc");
    const all = historyOf(shownPages());
    fill(place, championCard(all), tableCard(),
      h("div", { class: "grid" },
        card("Metrics over time", { className: "span-7", actions: metric.node,
          hint: `holdout and later evaluations, 95 % intervals where known, ${zoneName()}` }, canvas),
        card("History", { className: "span-5", id: "models-timeline", hint: "newest first" },
          h("ol", { class: "models-history", tabindex: "0", "aria-label": "History" }, all.map(happened)))),
      compareCard(), versionCard());
    const same = root.contains(focused) ? focused : focused?.id && document.getElementById(focused.id);
    if (same) same.focus({ preventScroll: true });
    drawChart();
  }

  function championCard(all) {
    const promotions = all.filter((event) => event.what === "promoted");
    const now = champion();
    const before = promotions[0]?.version === now?.version ? promotions[1]?.version : promotions[0]?.version;
    const last = promotions.find((event) => event.version === now?.version);
    const ends = [Date.now(), ...promotions.map((event) => Date.parse(event.at))];
    const whole = ends[0] - ends.at(-1) || 1;
    return card("Champion", { id: "models-champion", actions: before && before !== now?.version &&
      button(`Roll back to version ${before}`, () => promote(before, true), { id: "models-roll-back", kind: "danger" }) },
      now ? h("p", { class: "row" }, state("champion", `Version ${now.version}`), last && h("span", {}, `by ${last.who}, `, age(last.at)),
        last?.why && h("span", { class: "soft" }, last.why)) : h("p", { class: "soft" }, "No version is champion."),
      h("ol", { class: "models-reigns", "aria-label": "Who was champion, oldest first" }, promotions.map((event, order) => {
        const share = (ends[order] - ends[order + 1]) / whole;
        const text = `version ${event.version}, from ${at(event.at)}`;
        return h("li", { class: order === 0 ? "is-present" : "", style: { "flex-grow": share }, title: text },
          openLink(event.version, `v${event.version}`));
      }).reverse()));
  }

  function tableCard() {
    const rows = models.slice(0, many()).map((model) => {
      const { version, parameters, inputs } = model;
      const labelled = pages.get(version)?.metrics.holdout?.labelled;
      const isChosen = [opened(), compared()].includes(version);
      return { id: `models-row-${version}`, mark: version === opened() ? "is-chosen" : "", cells: [
        h("a", { id: `models-open-${version}`,
          href: link("models", { ...query, version, compare: version === compared() ? null : query.compare }) }, `Version ${version}`),
        state(model.status), age(model.created), number(inputs.rows), `${parameters.trees} × ${parameters.max_samples}`,
        percent(parameters.contamination, 2), number(model.threshold, 4),
        ...["pr_auc", "f1", "recall"].map((name) => ratio(labelled?.[name])),
        model.pinned ? "Pinned" : NONE, model.parent ? openLink(model.parent) : NONE,
        button("Compare", () => choose(version), { id: `models-compare-${version}`, pressed: isChosen,
          title: `Compare version ${version}` })] };
    });
    const more = models.length > many() &&
      button(`Show ${PAGE} more of ${models.length}`, () => change({ shown: many() + PAGE }), { id: "models-more" });
    const heads = ["Version", "Status", "Created", ">Rows", ">Trees × rows", ">Contamination", ">Threshold", ">PR-AUC", ">F1", ">Recall",
      "Pinned", "Parent", "Compare"];
    return card("Versions", { id: "models-versions", hint: "metrics of the holdout; choose two to compare them", actions: more },
      scroller("List of versions", plain(heads, rows, "nowrap")));
  }

  /** Chooses a version for the comparison, or takes it out. */
  function choose(version) {
    if (version === compared()) change({ compare: null });
    else if (version === opened()) change({ version: compared(), compare: null });
    else change(opened() ? { compare: version } : { version });
  }

  function compareCard() {
    const [one, other] = [pages.get(opened()), pages.get(compared())];
    if (!one || !other) return null;
    return card(`Version ${opened()} and version ${compared()}`, { id: "models-comparison",
      actions: button("End the comparison", () => change({ compare: null })) },
    h("div", { class: "models-parts" }, comparison(one, other)));
  }

  function versionCard() {
    if (!opened()) return card("A version", {}, empty("No version is open",
      "Open one in the list: its parameters, data, metrics, drift and history."));
    const page = pages.get(opened());
    if (!page) return card(`Version ${opened()}`, {}, empty(`There is no version ${opened()}`, "Open one in the list."));
    const { model } = page;
    const all = reports(page);
    const chosen = all.find(([name]) => name === query.slice) ?? all[0];
    const measured = select("Measured on", all.map(([name, text]) => [name, text]), chosen?.[0],
      (name) => change({ slice: name }), "models-slice");
    const others = select("Compare with", [["", "Nothing"], ...models.filter(({ version }) => version !== opened())
      .map(({ version }) => [version, `Version ${version}`])], compared() ?? "",
    (version) => change({ compare: version }), "models-compare");
    return card(`Version ${model.version}`, { id: "models-version", hint: state(model.status), actions: [
      button("Promote", () => promote(model.version), { id: "models-promote", kind: "primary", disabled: model.status === "champion",
        title: model.status === "champion" ? "It is champion" : null })] },
    h("div", { class: "row models-choices" }, measured.node, others.node),
    h("div", { class: "models-parts" }, chosen && reportParts(chosen[2]), evaluationsPart(page), driftPart(page.drift),
      part("Parameters", some(["trees", "max_samples", "contamination", "alert_quantile", "seed", "threshold", "code"], model)),
      part("Training data", some(["table", "predicate", "from", "to", "rows", "dropped", "symbols", "digest", "specification"], model)),
      part("Artifact", some(["size", "hash"], model)),
      part("History", h("ol", { class: "models-history" }, historyOf([page]).map(happened)))));
  }

  function drawChart() {
    const name = query.metric ?? "pr_auc";
    const label = METRICS.find(([of]) => of === name)?.[1] ?? name;
    const lines = shownPages().reverse().map(({ model, metrics, evaluations }, order) => {
      const points = [[model.created, metrics.holdout, "holdout"], ...evaluations.map((one) => [one.at, one.report, "evaluation"])]
        .filter(([, report]) => Number.isFinite(report?.labelled?.[name]));
      return { model, order, points };
    }).filter(({ points }) => points.length);
    graph.draw((colour) => lines.map(({ model, order, points }) => {
      const values = points.map(([, report]) => report.labelled[name]);
      const bound = (end) => points.map(([, report], place) =>
        Math.abs((report.labelled.intervals?.[name]?.[end] ?? values[place]) - values[place]));
      const paint = colour(COLOURS[order % COLOURS.length]);
      return {
        x: points.map(([when]) => chartTime(when)), y: values, name: `v${model.version}`, mode: "lines+markers", type: "scatter",
        text: points.map(([when, report, kind]) => `Version ${model.version}, ${kind}<br>` +
          `${label} ${ratio(report.labelled[name])} of ${number(report.rows)} rows<br>${at(when)}`),
        hovertemplate: "%{text}<extra></extra>",
        line: { color: paint, width: model.status === "champion" ? 3 : 1.5 },
        marker: { color: paint, size: 9,
          symbol: points.map(([, , kind]) => `${SYMBOLS[order % SYMBOLS.length]}${kind === "holdout" ? "-open" : ""}`) },
        error_y: { type: "data", symmetric: false, array: bound(1), arrayminus: bound(0), thickness: 1, width: 3, color: paint },
      };
    }), { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, xaxis: { type: "date" },
      yaxis: { title: { text: label }, range: [0, 1.02] } }).catch((error) => fill(outcome, failure(error, drawChart)));
  }

  async function promote(version, isBack = false) {
    const current = champion()?.version ?? null;
    const title = isBack ? `Roll back to version ${version}` : `Promote version ${version}`;
    const instead = current ? ` instead of version ${current}` : "";
    const detail = `Version ${version} becomes champion${instead}; live scoring and /predict swap at once.`;
    const reason = await askReason(title, detail, isBack ? "Roll back" : "Promote");
    if (!reason || ended) return;
    fill(outcome, loading(`${title} …`, 56));
    try {
      const page = await post(`/models/${version}/promote`, { reason, expect_current: current });
      pages.set(version, page);
      fill(outcome);
      toast(`Version ${version} is champion`);
    } catch (error) {
      if (!ended) fill(outcome, h("div", { class: "notice notice-bad", role: "alert" },
        h("strong", {}, `${title}: refused`), h("p", {}, error.message), button("Close", () => fill(outcome))));
    }
    if (!ended) refresh();
  }

  const onStatus = ({ detail }) => {
    const text = detail.services.find((one) => one.name === "Model")?.details;
    if ((known !== null && text !== known) || (models && !drawn)) refresh();
    known = text;
  };
  // A run that ended may have trained, judged or measured a model.
  const onRun = () => {
    clearTimeout(again);
    again = setTimeout(refresh, 1_000);
  };
  events.addEventListener("status", onStatus);
  events.addEventListener("run", onRun);
  const ages = setInterval(() => {
    for (const one of root.querySelectorAll("[data-age]")) say(one, ago(one.dataset.age));
  }, 5_000);
  refresh();

  return {
    update(to) {
      query = to;
      if (models?.length && wanted().some((version) => !pages.has(version))) refresh();
      draw();
    },
    end() {
      ended = true;
      refreshing?.abort();
      clearTimeout(again);
      clearInterval(ages);
      graph.end();
      events.removeEventListener("status", onStatus);
      events.removeEventListener("run", onRun);
    },
    zone: () => draw(true),
  };
}
