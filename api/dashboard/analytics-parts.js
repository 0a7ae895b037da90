// What the analytics page asks of the service, and its parts that show sums: by symbol, correlation, trend, distribution.

import { path, post } from "./api.js";
import { chart } from "./charts.js";
import { card, choice, empty, failure, loading } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { chartTime, duration, FEATURE_NAMES, FEATURES, milliseconds, number, percent, score, time, zoneName } from "./format.js";

/** Ranges of time that can be chosen by name: [name, text, seconds]. */
export const RANGES = [["15m", "15 min", 900], ["1h", "1 h", 3600], ["6h", "6 h", 21_600], ["24h", "24 h", 86_400], ["all", "All", null]];

const SYMBOL = /^[A-Z0-9]{1,15}-[A-Z0-9]{1,15}$/;
const WHOLE = /^[0-9]{1,15}$/;
const INSTANT = /^\d{4}-\d\d-\d\d(T[\d:.]+(Z|[+-]\d\d:\d\d))?$/;

/** The settings that an address names, each checked, for statements are made of them; `wrong` says what cannot be meant. */
export function checked(query) {
  const wrong = [];
  const take = (name, read) => {
    if (!query[name]) return null;
    const value = read(query[name]);
    if (value === null) wrong.push(`${name}=${query[name]}`);
    return value;
  };
  const whole = (text) => (WHOLE.test(text) ? Number(text) : null);
  const instant = (text) => (INSTANT.test(text) && milliseconds(text) !== null ? new Date(text).toISOString() : null);
  const settings = {
    symbol: take("symbol", (text) => (SYMBOL.test(text) ? text : null)),
    from: take("from", instant),
    to: take("to", instant),
    range: take("range", (text) => (RANGES.some(([name]) => name === text) ? text : null)),
    anomalies: query.anomalies === "1",
    model: take("model", whole),
    version: take("version", whole),
    asOf: take("as_of", instant),
  };
  if (settings.from || settings.to) settings.range = null;
  else settings.range ??= "1h";
  if (settings.from && settings.to && settings.from >= settings.to) wrong.push("from is not before to");
  return { ...settings, wrong };
}

/** The answer to a statement, with the version that was read. */
export async function answer(statement, signal) {
  const { rows, versions } = await post("/sql", { sql: statement }, { signal });
  signal.throwIfAborted();
  return { rows, version: versions[0]?.version };
}

/** What a statement reads from: the table at the version that the page shows, and the filters. */
export function source(view, { everySymbol = false } = {}) {
  const conditions = [
    view.symbol && !everySymbol && `symbol = '${view.symbol}'`,
    view.from && `timestamp >= '${view.from}'`,
    view.to && `timestamp < '${view.to}'`,
    view.anomalies && "is_anomaly",
    view.model !== null && `model_version = ${view.model}`,
  ].filter(Boolean);
  return `FROM predictions VERSION AS OF ${view.version}${conditions.length ? ` WHERE ${conditions.join(" AND ")}` : ""}`;
}

/** The same as `source`, as an address of rows. */
export function rowsAddress(view, more) {
  return path("/predictions", { symbol: view.symbol, from: view.from, to: view.to, anomalies_only: view.anomalies || null,
    model_version: view.model, version: view.version, ...more });
}

/** A card whose content is fetched: content that is old stays, dimmed, until there is newer. */
export function part(title, content, { id, hint, actions, span, height }) {
  const notice = h("div", {}, loading("Loading", height));
  const place = h("div", { class: "analytics-part", style: { "min-height": `${height}px` } }, content, notice);
  content.hidden = true;
  const show = (told) => {
    place.removeAttribute("aria-busy");
    content.hidden = Boolean(told);
    fill(notice, told);
  };
  return {
    node: card(title, { id, hint, actions, className: span }, place),
    show,
    busy() {
      place.setAttribute("aria-busy", "true");
      if (content.hidden) fill(notice, loading("Loading", height));
    },
    fail: (error, again) => show(failure(error, again)),
    none: () => show(empty("No prediction matches", "Another range, symbol or model version may have some.")),
  };
}

const SUMS = `count(*) AS rows, count(*) FILTER (WHERE is_anomaly) AS anomalies, avg(anomaly_score) AS average,
  min(anomaly_score) AS lowest`;

const SUM_HEADS = ["Symbol", "Predictions", "Anomalies", "Rate", "Average score", "Lowest score"];

/** Sums of every symbol; a click chooses one. `onSymbol(symbol)`, `onCount(rows that match)`. */
export function breakdown({ onSymbol, onCount }) {
  const content = h("div", { class: "scroll-x", tabindex: "0", role: "group", "aria-label": "By symbol" });
  const self = part("By symbol", content, { id: "analytics-breakdown", span: "span-7", height: 232,
    hint: "all symbols under the other filters; a click chooses one" });
  let shown = null;

  function line({ name, symbol, rows, anomalies, average, lowest, newest }, view, most) {
    const bar = (text, share) => h("td", { class: "end analytics-bar", style: { "--share": share || 0 } }, text);
    const rate = rows ? anomalies / rows : 0;
    return h("tr", { class: view.symbol === symbol ? "is-chosen" : "", on: { click: () => onSymbol(symbol) } },
      h("th", { scope: "row" },
        h("button", { type: "button", class: "analytics-choose", "aria-pressed": String(view.symbol === symbol) }, name)),
      bar(number(rows), rows / most.rows), bar(number(anomalies), anomalies / most.anomalies),
      view.anomalies ? h("td", { class: "end", title: "Only anomalies are counted" }, "–") : bar(percent(rate, 2), rate / most.rate),
      h("td", { class: "end" }, score(average)), h("td", { class: "end" }, score(lowest)),
      h("td", { class: "end", title: time(newest, "full") }, time(newest, "both").slice(5)));
  }

  function draw() {
    const { rows, view } = shown;
    if (rows.length === 0) return self.none();
    const total = (name) => rows.reduce((sum, row) => sum + row[name], 0);
    const all = { name: "All", symbol: null, rows: total("rows"), anomalies: total("anomalies"),
      average: rows.reduce((sum, row) => sum + row.average * row.rows, 0) / total("rows"),
      lowest: Math.min(...rows.map((row) => row.lowest)), newest: rows.map((row) => row.newest).sort().at(-1) };
    const greatest = (of) => Math.max(...rows.map(of)) || 1;
    const most = { rows: greatest((row) => row.rows), anomalies: greatest((row) => row.anomalies),
      rate: greatest((row) => row.anomalies / row.rows) };
    // Whoever chose a symbol by the keyboard stays there.
    const focused = [...content.querySelectorAll("button")].indexOf(document.activeElement);
    const whole = { rows: Infinity, anomalies: Infinity, rate: Infinity };
    fill(content, h("table", { class: "plain analytics-breakdown" },
      h("thead", {}, h("tr", {}, [...SUM_HEADS, `Last seen, ${zoneName()}`].map((text, at) =>
        h("th", { scope: "col", class: at ? "end" : "" }, text)))),
      h("tbody", {}, rows.map((row) => line({ ...row, name: row.symbol }, view, most))),
      h("tfoot", {}, line(all, view, whole))));
    self.show();
    return content.querySelectorAll("button")[focused]?.focus();
  }

  return {
    ...self,
    async load(view, signal) {
      const { rows } = await answer(
        `SELECT symbol, ${SUMS}, max(timestamp) AS newest ${source(view, { everySymbol: true })} GROUP BY symbol ORDER BY symbol`, signal);
      shown = { rows, view };
      onCount(rows.filter((row) => !view.symbol || row.symbol === view.symbol).reduce((sum, row) => sum + row.rows, 0));
      draw();
    },
    zone: () => shown && draw(),
  };
}

/** How features go together. */
export function correlation() {
  const content = h("div", {});
  const hint = h("span", {});
  const self = part("Correlation of features", content, { id: "analytics-correlation", hint, span: "span-5", height: 232 });
  const pairs = FEATURE_NAMES.flatMap((one, at) => FEATURE_NAMES.slice(at + 1).map((other) => [one, other]));

  function cell(row, one, other) {
    const value = one === other ? 1 : (row[`${one}_${other}`] ?? row[`${other}_${one}`]);
    const strength = Math.min(Math.abs(value ?? 0), 1) * 100;
    return h("td", { class: value < 0 ? "is-low" : "is-high", style: { "--share": `${strength}%` },
      title: `${FEATURES[one].name} and ${FEATURES[other].name}` },
      number(typeof value === "number" ? Math.round(value * 100) / 100 || 0 : null, 2));
  }

  return {
    ...self,
    async load(view, signal) {
      const columns = pairs.map(([one, other]) => `corr(${one}, ${other}) AS ${one}_${other}`).join(", ");
      const { rows: [row] } = await answer(`SELECT count(*) AS rows, ${columns} ${source(view)}`, signal);
      say(hint, `Pearson, of ${number(row.rows)} rows`);
      if (row.rows === 0) return self.none();
      const names = (scope) => FEATURE_NAMES.map((name) => h("th", { scope, title: FEATURES[name].about }, FEATURES[name].name));
      fill(content, h("table", { class: "analytics-matrix" },
        h("thead", {}, h("tr", {}, h("td", {}), names("col"))),
        h("tbody", {}, FEATURE_NAMES.map((one, at) => h("tr", {}, names("row")[at], FEATURE_NAMES.map((other) => cell(row, one, other)))))),
        h("div", { class: "analytics-scale hint", "aria-hidden": "true" }, "−1", h("span", {}), "+1"));
      return self.show();
    },
  };
}

const BUCKETS = [1, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400, 604_800];
const MOST_BUCKETS = 180;

/** Average and lowest score over time, with the anomalies beneath. */
export function trend() {
  const content = h("div", { style: { height: "300px" } });
  const hint = h("span", {});
  const self = part("Score over time", content, { id: "analytics-trend", hint, span: "span-8", height: 300 });
  const plot = chart(content, "Average and lowest anomaly score and number of anomalies over time");
  let shown = null;

  function draw() {
    const { rows, seconds } = shown;
    say(hint, `buckets of ${duration(seconds).replace(".0 ", " ")}, times in ${zoneName()}`);
    if (rows.length === 0) return self.none();
    self.show();
    // Where a bucket has no row the lines are to break.
    const found = new Map(rows.map((row) => [milliseconds(row.bucket), row]));
    const [first, last] = [milliseconds(rows[0].bucket), milliseconds(rows.at(-1).bucket)];
    const starts = Array.from({ length: (last - first) / (seconds * 1000) + 1 }, (_, at) => first + at * seconds * 1000);
    const x = starts.map(chartTime);
    const values = (name) => starts.map((start) => found.get(start)?.[name] ?? null);
    const line = (name, style) => ({ type: "scatter", mode: "lines+markers", x, y: values(name), name, line: style, marker: { size: 3 },
      hovertemplate: "%{y:.4f}" });
    const bars = { type: "bar", x, y: values("anomalies"), yaxis: "y2", name: "anomalies", hovertemplate: "%{y}" };
    return plot.draw((colour) => [
      line("average", { color: colour("line"), width: 2 }),
      line("lowest", { color: colour("third"), width: 1.5, dash: "dot" }),
      { ...bars, marker: { color: colour("anomaly") } },
    ], (colour) => ({
      showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, margin: { l: 56, r: 16, t: 32, b: 32 },
      hovermode: "x unified", bargap: 0.15, hoverlabel: { bgcolor: colour("mid"), font: { color: colour("text") } },
      xaxis: { type: "date", anchor: "y2", tickangle: 0, nticks: Math.max(Math.floor(content.clientWidth / 90), 3) },
      yaxis: { domain: [0.34, 1], title: { text: "score" }, tickformat: ".2f", zeroline: false },
      yaxis2: { domain: [0, 0.24], title: { text: "anomalies" }, rangemode: "tozero", nticks: 4, tickformat: ",d" },
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, line: { color: colour("anomaly"), width: 1, dash: "dash" } }],
    }));
  }

  return {
    ...self,
    async load(view, signal) {
      const first = Math.max(milliseconds(view.from ?? view.oldest), milliseconds(view.oldest));
      const last = Math.min(milliseconds(view.to ?? view.newest), milliseconds(view.newest));
      const seconds = BUCKETS.find((size) => (last - first) / 1000 / size <= MOST_BUCKETS) ?? BUCKETS.at(-1);
      const { rows } = await answer(
        `SELECT date_bin(INTERVAL '${seconds} seconds', timestamp) AS bucket, ${SUMS} ${source(view)} GROUP BY 1 ORDER BY 1`, signal);
      shown = { rows, seconds };
      await draw();
    },
    zone: () => shown && draw(),
    end: plot.end,
  };
}

/** How often scores are how high. `onScale(name)`: of its axis. */
export function distribution({ onScale }) {
  const content = h("div", { style: { height: "300px" } });
  const scales = choice("Scale of the distribution", [["log", "Log"], ["linear", "Linear"]], "log", onScale);
  const self = part("Distribution of scores", content, { id: "analytics-distribution", actions: scales.node, span: "span-4", height: 300 });
  const plot = chart(content, "Number of predictions by anomaly score");
  let rows = null;
  let scale = "log";

  function draw() {
    if (rows.length === 0) return self.none();
    self.show();
    const bars = (isAnomaly, name, token) => (colour) => {
      const of = rows.filter((row) => row.is_anomaly === isAnomaly);
      return { type: "bar", name, x: of.map((row) => (row.bin + 0.5) / 100), y: of.map((row) => row.rows), width: 0.0092,
        marker: { color: colour(token) }, textposition: "none", hovertemplate: `%{text}<br>%{y:,} ${name}<extra></extra>`,
        text: of.map((row) => `${score(row.bin / 100)} to ${score((row.bin + 1) / 100)}`) };
    };
    const both = [bars(true, "anomalies", "anomaly"), bars(false, "usual", "line")];
    return plot.draw((colour) => both.map((one) => one(colour)), (colour) => ({
      barmode: "overlay", showlegend: true, legend: { orientation: "h", x: 0, y: 1.08, yanchor: "bottom" },
      margin: { l: 56, r: 8, t: 48, b: 40 },
      xaxis: { title: { text: "score" }, zeroline: false },
      yaxis: { type: scale, title: { text: "predictions" }, tickformat: ",d",
        ...(scale === "log" ? { dtick: 1 } : { rangemode: "tozero" }) },
      shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: colour("text"), width: 1, dash: "dash" } }],
      annotations: [{ x: 0, yref: "paper", y: 1, text: "threshold 0", showarrow: false, yanchor: "bottom" }],
    }));
  }

  return {
    ...self,
    async load(view, signal) {
      ({ rows } = await answer(
        `SELECT CAST(floor(anomaly_score * 100) AS BIGINT) AS bin, is_anomaly, count(*) AS rows ${source(view)} GROUP BY 1, 2 ORDER BY 1`,
        signal));
      await draw();
    },
    scale(name) {
      const wanted = name === "linear" ? "linear" : "log";
      scales.set(wanted);
      if (wanted === scale) return;
      scale = wanted;
      if (rows) draw();
    },
    end: plot.end,
  };
}
