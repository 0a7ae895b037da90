// Models: every version, how good it is and was, what happened to it; two side by side; who is champion, and another one.

import { change, link } from "./address.js";
import { get, post } from "./api.js";
import { events } from "./app.js";
import { chart } from "./charts.js";
import { askReason, button, card, choice, empty, failure, loading, named, scroller, select, state, toast, waiting } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { ago, chartTime, moment, NONE, number, percent, zoneName } from "./format.js";
import { age, comparison, driftPart, evaluationsPart, happened, historyOf, METRICS, openLink, part, plain, ratio, reportParts, reports,
  some } from "./models-parts.js";

const PAGE = 30;
const AT_ONCE = 4;
const WAIT_MS = 2_000;
const COLOURS = ["line", "anomaly", "second", "third", "fourth"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];

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
  const metric = named(choice("Metric", METRICS, start.metric ?? "pr_auc", (name) => change({ metric: name })), "models-metric");
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
        const text = `version ${event.version}, from ${moment(event.at)}`;
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
          `${label} ${ratio(report.labelled[name])} of ${number(report.rows)} rows<br>${moment(when)}`),
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
