// The status page: how the parts are, what flows through them, which model judges, how much there is of everything.

import { link } from "./address.js";
import { ask, get, poll } from "./api.js";
import { connection, events, status } from "./app.js";
import { button, card, empty, figure, loading, pairs, showState } from "./controls.js";
import { fill, h, say, svg } from "./dom.js";
import { NONE, ago, bytes, duration, number, percent, score, time, words, zoneName } from "./format.js";

/** Rates are those of the last 10 s; what comes in commits, and latencies, of the last minute. */
const SHORT_MS = 10_000;
const LONG_MS = 60_000;
const OLD_MS = 20_000;

/** The series of a text in the format of Prometheus: name to [[labels as they are written, value]]. */
function parsed(text) {
  const series = new Map();
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    if (!series.has(found[1])) series.set(found[1], []);
    series.get(found[1]).push([found[2] ?? "", Number(found[3])]);
  }
  return series;
}

/** What was counted lately: the looks at /metrics of the last minute. */
class Looks {
  list = [];

  add(text) {
    const look = { at: Date.now(), series: parsed(text) };
    const logged = "sentinel_events_logged_total";
    // Counters that fell are those of another process: what was seen before says nothing about it.
    if (this.list.length && this.sum(logged) > this.sum(logged, "", look)) this.list = [];
    this.list = [...this.list.filter((one) => look.at - one.at <= LONG_MS + 2_000), look];
  }

  /** The sum of the series of a name whose labels have a part; null where there is none. */
  sum(name, part = "", look = this.list.at(-1)) {
    const found = look?.series.get(name)?.filter(([labels]) => labels.includes(part));
    return found ? found.reduce((sum, [, value]) => sum + value, 0) : null;
  }

  greatest(name) {
    const values = this.list.at(-1)?.series.get(name)?.map(([, value]) => value) ?? [];
    return values.length ? Math.max(...values) : null;
  }

  label(name, label) {
    return new RegExp(`${label}="([^"]*)"`).exec(this.list.at(-1)?.series.get(name)?.[0][0] ?? "")?.[1] ?? null;
  }

  before(within) {
    const newest = this.list.at(-1);
    return this.list.find((look) => look !== newest && newest.at - look.at <= within + 1_000);
  }

  added(name, part, within) {
    const before = this.before(within);
    return before ? this.sum(name, part) - (this.sum(name, part, before) ?? 0) : null;
  }

  /** What was added per second; null before two looks, and where this process has never counted any. */
  rate(name, part = "", within = SHORT_MS) {
    const added = this.added(name, part, within);
    if (added === null || !this.sum(name)) return null;
    return (added * 1000) / (this.list.at(-1).at - this.before(within).at);
  }

  /** The mean of a histogram's newest values; of all, where none is new. */
  mean(name) {
    const count = this.added(`${name}_count`, "", LONG_MS);
    if (count) return this.added(`${name}_sum`, "", LONG_MS) / count;
    return this.sum(`${name}_count`) ? this.sum(`${name}_sum`) / this.sum(`${name}_count`) : null;
  }

  /** A quantile of a histogram's newest values, between the bounds of its bucket; null where none is new. */
  quantile(name, share) {
    const bounds = [...new Set((this.list.at(-1)?.series.get(`${name}_bucket`) ?? []).map(([labels]) => labels))]
      .map((labels) => [Number(/le="([^"+]*)"/.exec(labels)?.[1] ?? Infinity), this.added(`${name}_bucket`, labels, LONG_MS)])
      .sort(([one], [other]) => one - other);
    const wanted = share * (bounds.at(-1)?.[1] ?? 0);
    if (!wanted) return null;
    const at = bounds.findIndex(([, count]) => count >= wanted);
    const [low, below] = bounds[at - 1] ?? [0, 0];
    const [high, count] = bounds[at];
    return high === Infinity ? low : low + ((high - low) * (wanted - below)) / (count - below);
  }
}

function perSecond(rate, unit) {
  return `${rate === null ? NONE : rate && rate < 10 ? number(rate, 1) : number(rate)} ${unit}`;
}

function lengthOf(seconds) {
  return seconds === null ? NONE : duration(Number(seconds.toPrecision(2)));
}

const APPENDED = "sentinel_events_logged_total";
const COMMITS = "sentinel_commit_duration_seconds";
const LATENCY = "sentinel_event_to_prediction_seconds";
const PREDICTIONS = "sentinel_predictions_total";

/** What a part's card says besides its latency: a name and a text. */
const FACTS = {
  API: ["Round trip", ({ roundTrip }) => lengthOf(roundTrip)],
  Log: ["Appended", ({ looks }) => perSecond(looks.rate(APPENDED), "/s")],
  Stream: ["Behind", ({ looks }) => `${number(looks.sum("sentinel_fold_lag_events"))} events, ${lag(looks)}`],
  Lake: ["Commit", ({ looks }) => lengthOf(looks.mean(COMMITS))],
  Scheduler: ["Runs", ({ looks }) => {
    const waiting = looks.sum("sentinel_runs_waiting");
    return `${number(looks.sum("sentinel_runs_going"))} going${waiting ? `, ${number(waiting)} waiting` : ""}`;
  }],
  Model: ["Predicted", ({ looks }) => perSecond(looks.rate(PREDICTIONS), "/s")],
};

function lag(looks) {
  const seconds = looks.greatest("sentinel_fold_lag_seconds");
  return seconds === 0 ? "0 s" : lengthOf(seconds);
}

function partCard(name) {
  const place = h("span");
  const [fact, tell] = FACTS[name] ?? [];
  const facts = pairs(fact ? ["Latency", fact] : ["Latency"]);
  const details = h("p", { class: "status-details" });
  return {
    node: card(name, { id: `status-part-${name.toLowerCase()}`, actions: place, className: "status-part" }, facts.node, details),
    show(service, seen) {
      showState(place, service.status);
      // A part that measures nothing says 0.
      facts.set("Latency", service.response_time_ms > 0 ? lengthOf(service.response_time_ms / 1000) : NONE);
      if (fact) facts.set(fact, tell(seen));
      say(details, service.details ?? "");
      details.classList.toggle("anomalous", service.status !== "online");
    },
  };
}

function partsView() {
  const node = h("div", { class: "tiles", id: "status-parts" }, loading("Asking how the parts are", 174));
  const cards = new Map();
  return {
    node,
    show(seen) {
      const services = seen.status?.services;
      if (!services) return;
      if (services.map((one) => one.name).join() !== [...cards.keys()].join()) {
        cards.clear();
        for (const { name } of services) cards.set(name, partCard(name));
        fill(node, [...cards.values()].map((one) => one.node));
      }
      for (const service of services) cards.get(service.name).show(service, seen);
    },
  };
}

/** The boxes of the drawing: title, page, and what they say: [state, word, text]. */
const BOXES = {
  source: ["Source", "live", ({ looks, status: { simulated } }) => {
    const rate = looks.rate(APPENDED);
    const text = simulated ? "simulated market" : `${number(looks.sum("sentinel_source_connections"))} connections`;
    return rate === null ? ["idle", "Not known", text] : rate > 0 ? ["live", "Flowing", text] : ["stale", "Silent", text];
  }],
  log: ["Event log", "live", (seen) => [...part(seen, "Log"), `${number(logged(seen))} events`]],
  stream: ["Stream job", "live", (seen) =>
    [...part(seen, "Stream"), `${number(seen.looks.sum("sentinel_fold_lag_events"))} events behind`]],
  tables: ["Delta tables", "analytics", (seen) =>
    [...part(seen, "Lake"), `${number(total(seen.tables, "rows"))} rows, ${bytes(total(seen.tables, "bytes"))}`]],
  training: ["Training", "jobs", (seen) => {
    const run = seen.training;
    if (["pending", "running", "failed"].includes(run?.state)) return [run.state, words(run.state), `run ${run.id}, ${ago(run.created)}`];
    const [name, word] = part(seen, "Scheduler");
    if (name === "offline") return [name, word, "no scheduler here"];
    return seen.model ? ["idle", "Idle", `last ${ago(seen.model.model.created)}`] : ["idle", "Waiting", "for enough rows"];
  }],
  registry: ["Model registry", "models", (seen) =>
    [...part(seen, "Model"), seen.model ? `${seen.model.model.name} v${seen.model.model.version}` : "no model yet"]],
  api: ["API", "status", (seen) => [...part(seen, "API"), bytes(seen.looks.sum("process_resident_memory_bytes"))]],
  dashboard: ["Dashboard", "live", () => [connection.state, words(connection.state), "this page"]],
};

function part(seen, name) {
  const found = seen.status.services?.find((one) => one.name === name)?.status ?? "idle";
  return [found, found === "idle" ? "Not known" : words(found)];
}

function logged(seen) {
  return seen.status?.progress?.events_logged ?? seen.looks.sum(APPENDED);
}

function total(tables, member) {
  return tables ? tables.reduce((sum, table) => sum + table[member], 0) : null;
}

const version = ({ model }) => (model ? `version ${model.model.version}` : "");

/** The arrows of the drawing: whence, whither, and the two lines of what flows: [above, below, whether something does]. */
const ARROWS = [
  ["source", "log", ({ looks }) => {
    const rate = looks.rate("sentinel_logged_bytes_total");
    return [perSecond(looks.rate(APPENDED), "events/s"), rate === null ? "" : `${bytes(Math.round(rate))}/s`, rate > 0];
  }],
  ["log", "stream", ({ looks }) => {
    const rate = looks.rate("sentinel_records_folded_total");
    const others = ["late", "duplicate", "dead"].map((fate) => [looks.added("sentinel_records_folded_total", `"${fate}"`, SHORT_MS), fate]);
    const told = others.filter(([count]) => count > 0).map(([count, fate]) => `${number(count)} ${fate}`).join(", ");
    return [perSecond(rate, "folded/s"), told || (rate > 0 ? "all admitted" : ""), rate > 0];
  }],
  ["stream", "tables", ({ looks }) => {
    const rate = looks.rate("sentinel_rows_committed_total", "", LONG_MS);
    return [perSecond(rate, "rows/s"), `commit ${lengthOf(looks.mean(COMMITS))}`, rate > 0];
  }],
  ["tables", "training", ({ model }) =>
    (model ? [`${number(model.model.inputs.rows)} rows`, "learnt from", true] : ["", "", false])],
  ["training", "registry", (seen) => [version(seen), seen.model ? ago(seen.model.model.created) : "", Boolean(seen.model)]],
  ["registry", "stream", (seen) => [version(seen), seen.model ? "judges" : "", Boolean(seen.model)]],
  ["registry", "api", (seen) => [version(seen), seen.model ? "for /predict" : "", Boolean(seen.model)]],
  ["stream", "api", ({ looks }) => {
    const rate = looks.rate(PREDICTIONS);
    const [half, most] = [looks.quantile(LATENCY, 0.5), looks.quantile(LATENCY, 0.99)];
    return [perSecond(rate, "predictions/s"), `p50 ${lengthOf(half)}, p99 ${lengthOf(most)}`, rate > 0];
  }],
  ["api", "dashboard", ({ looks }) => {
    const readers = looks.sum("sentinel_stream_readers");
    const asked = perSecond(looks.rate("sentinel_http_requests_total"), "requests/s");
    return [`${number(readers)} ${readers === 1 ? "reader" : "readers"}`, asked, readers > 0];
  }],
];

/** Where everything is in a wide drawing: four boxes above, four below, which go back. */
function wide(width) {
  const size = [Math.min(Math.floor((width - 3 * 128) / 4), 232), 88];
  const step = (width - size[0]) / 3;
  const down = size[1] + 96;
  const at = (column, row) => [Math.round(column * step), row * down + 4];
  const names = ["source", "log", "stream", "tables", "training", "registry", "api", "dashboard"];
  const boxes = Object.fromEntries(names.map((name, place) => [name, place < 4 ? at(place, 0) : at(7 - place, 1)]));
  const middle = size[1] + 4 + 48;
  const arrow = (from, to) => {
    const [[x, y], [end, floor]] = [boxes[from], boxes[to]];
    const key = `${from} ${to}`;
    if (key === "stream api") {
      const [start, finish] = [x + size[0] * 0.25, end + size[0] * 0.75];
      return { path: `M${start} ${y + size[1]}V${middle}H${finish}V${floor - 2}`, x: (start + finish) / 2, y: middle, anchor: "middle" };
    }
    if (y !== floor) {
      const line = x + size[0] * (from === "registry" ? 0.65 : 0.5);
      const path = y < floor ? `M${line} ${y + size[1]}V${floor - 2}` : `M${line} ${y}V${floor + size[1] + 2}`;
      return { path, x: line + 10, y: middle, anchor: "start" };
    }
    const [start, finish] = x < end ? [x + size[0], end - 2] : [x, end + size[0] + 2];
    return { path: `M${start} ${y + 44}H${finish}`, x: (start + finish) / 2, y: y + 44, anchor: "middle" };
  };
  return { size, boxes, arrow, height: down + size[1] + 8 };
}

/** Where everything is in a narrow drawing: one below the other, and what skips boxes at the side. */
function narrow(width) {
  const size = [Math.min(width - 32, 480), 64];
  const step = size[1] + 48;
  const boxes = Object.fromEntries(Object.keys(BOXES).map((name, place) => [name, [1, place * step + 2]]));
  const arrow = (from, to) => {
    const [[, y], [, floor]] = [boxes[from], boxes[to]];
    if (floor - y === step) return { path: `M32 ${y + size[1]}V${floor - 2}`, x: 44, y: floor - 24, anchor: "start" };
    const side = size[0] + 1;
    const out = side + (from === "registry" ? 12 : 24);
    const path = `M${side} ${y + 32}H${out}V${floor + (from === "registry" ? 48 : 32)}H${side + 2}`;
    // The text of the registry's arrow is that of the one before it.
    return { path, x: side - 2, y: from === "registry" ? null : floor - 24, anchor: "end" };
  };
  return { size, boxes, arrow, height: step * 8 - 44 };
}

function pipeline() {
  const drawing = svg("svg", { role: "group", "aria-label": "The pipeline, from the source to this page", id: "status-pipeline-drawing" });
  const node = h("div", { class: "pipeline" }, drawing);
  let drawn = [];
  let newest = null;

  function box(name, [x, y], [width, height]) {
    const [title, page, tell] = BOXES[name];
    const place = h("span");
    const text = h("span", { class: "hint clip" });
    const content = h("a", { class: "pipeline-box", href: link(page), id: `status-box-${name}` },
      h("strong", { class: "clip" }, title), place, text);
    drawn.push((seen) => {
      const [state, word, more] = tell(seen);
      showState(place, state, word);
      say(text, more);
    });
    return svg("foreignObject", { x, y, width, height }, content);
  }

  function arrow([from, to, tell], { path, x, y, anchor }) {
    const line = svg("path", { d: path, class: "pipeline-arrow", "marker-end": "url(#pipeline-head)" });
    const texts = [-7, 17].map((down, at) => svg("text", { x, y: y + down, "text-anchor": anchor,
      class: at ? "pipeline-note" : "pipeline-rate", id: at ? null : `status-rate-${from}-${to}` }));
    drawn.push((seen) => {
      const told = tell(seen);
      line.classList.toggle("is-flowing", told[2]);
      texts.forEach((text, at) => say(text, told[at]));
    });
    return [line, y === null ? [] : texts];
  }

  function draw(width) {
    const plan = width < 900 ? narrow(width) : wide(width);
    drawn = [];
    drawing.setAttribute("width", width);
    drawing.setAttribute("height", plan.height);
    const head = svg("marker", { id: "pipeline-head", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8,
      markerUnits: "userSpaceOnUse", orient: "auto" }, svg("path", { d: "M0 0L8 4L0 8Z", class: "pipeline-head" }));
    fill(drawing, svg("defs", {}, head), ARROWS.map((one) => arrow(one, plan.arrow(one[0], one[1]))),
      Object.entries(plan.boxes).map(([name, at]) => box(name, at, plan.size)));
    if (newest) show(newest);
  }

  function show(seen) {
    newest = { ...seen, status: seen.status ?? {} };
    for (const one of drawn) one(newest);
  }

  let width = 0;
  const sizes = new ResizeObserver(([{ contentRect }]) => {
    if (Math.round(contentRect.width) === width) return;
    width = Math.round(contentRect.width);
    draw(width);
  });
  sizes.observe(node);
  return { node, show, end: () => sizes.disconnect() };
}

const CHAMPION = ["Model", "Trained", "Forest", "Contamination", "Seed", "Threshold", "Trained on", "Rows", "Markets", "From", "To"];

function championView() {
  const facts = pairs(CHAMPION);
  const node = h("div", { class: "status-champion" }, loading("Asking for the model", 360));
  return {
    node,
    show({ info, model: page }) {
      if (!page) {
        if (!info || info.loaded || node.querySelector("strong")) return;
        fill(node, empty("No model yet", "The first one is trained as soon as there are enough rows."));
        return;
      }
      if (!facts.node.isConnected) fill(node, facts.node);
      const { inputs, parameters, ...model } = page.model;
      const zone = zoneName();
      facts.set("Model", `${model.name} version ${model.version}, ${model.status}`);
      facts.set("Trained", `${ago(model.created)}, ${time(model.created, "both")} ${zone}`);
      facts.set("Forest", `${number(parameters.trees)} trees of up to ${number(parameters.max_samples)} rows`);
      facts.set("Contamination", percent(parameters.contamination, 2));
      facts.set("Seed", parameters.seed);
      facts.set("Threshold", score(model.threshold));
      facts.set("Trained on", `${inputs.table}, Delta version ${inputs.delta_version}`);
      facts.set("Rows", `${number(inputs.rows)}, ${number(inputs.rows_dropped)} dropped, ${number(inputs.rows_trimmed)} trimmed`);
      facts.set("Markets", inputs.symbols.join(", "));
      facts.set("From", `${time(inputs.from, "both")} ${zone}`);
      facts.set("To", `${time(inputs.to, "both")} ${zone}`);
    },
  };
}

function totalsView() {
  const named = (id, label) => figure(label, { id: `status-total-${id}` });
  const figures = { events: named("events", "Events logged"), predictions: named("predictions", "Predictions"),
    anomalies: named("anomalies", "Anomalies"), alerts: named("alerts", "Alerts"), memory: named("memory", "Memory"),
    version: named("version", "Program") };
  const tables = h("div", { class: "status-tables scroll-x", tabindex: "0", role: "region", "aria-label": "Tables" },
    loading("Asking for the tables", 322));
  const rows = new Map();

  function row(name, about) {
    const cells = ["rows", "files", "bytes", "version"].map(() => h("td", { class: "end" }));
    const node = h("tr", {}, h("th", { scope: "row", title: about }, h("a", { href: link("analytics", { table: name }) }, name)), cells);
    return { node, set: (texts) => texts.forEach((text, at) => say(cells[at], text)) };
  }

  function showTables(list) {
    if (list.map((one) => one.name).join() !== [...rows.keys()].join()) {
      rows.clear();
      for (const { name, about } of list) rows.set(name, row(name, about));
      const heads = ["Rows", "Files", "Size", "Version"].map((text) => h("th", { scope: "col", class: "end" }, text));
      fill(tables, h("table", { class: "plain", id: "status-tables" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Table"), heads)),
        h("tbody", {}, [...rows.values()].map((one) => one.node))));
    }
    for (const one of list) rows.get(one.name).set([number(one.rows), number(one.files), bytes(one.bytes), number(one.version)]);
  }

  return {
    node: h("div", { class: "stack" }, h("div", { class: "figures" }, Object.values(figures).map((one) => one.node)), tables),
    show(seen) {
      const { looks, stats } = seen;
      figures.events.set(number(logged(seen)), seen.status?.progress ? "" : "since it started");
      figures.memory.set(bytes(looks.sum("process_resident_memory_bytes")), "resident");
      figures.version.set(looks.label("sentinel_build_info", "version") ?? NONE, "Sentinel");
      const critical = looks.sum("sentinel_alerts_total", "critical");
      figures.alerts.set(number(looks.sum("sentinel_alerts_total")), `${number(critical)} critical, since it started`);
      if (stats) {
        figures.predictions.set(number(stats.total_predictions), "live and manual");
        figures.anomalies.set(number(stats.total_anomalies), `${number(stats.anomaly_rate, 2)} % of the predictions`);
      }
      if (seen.tables) showTables(seen.tables);
    },
  };
}

/** How far the first model is; seen only until there is one. */
function progressView() {
  const bar = h("progress", { "aria-label": "Rows for the first model" });
  const sentence = h("p", { id: "status-progress-text" });
  const node = card("On the way to the first model", { id: "status-progress", hint: "this page goes on by itself" }, bar, sentence);
  node.hidden = true;
  return {
    node,
    show({ info, status: told }) {
      node.hidden = !info || info.loaded;
      if (node.hidden) return;
      const { events_logged: events, feature_rows: rows, rows_for_first_model: needed, message } = told?.progress ?? {};
      if (needed) {
        bar.max = needed;
        bar.value = Math.min(rows, needed);
      }
      const text = message || (told?.services?.find((one) => one.name === "Model")?.details ?? "waiting for enough feature rows");
      const more = needed ? ` ${number(events)} events are logged.` : "";
      say(sentence, `${text.charAt(0).toUpperCase()}${text.slice(1)}.${more}`);
    },
  };
}

/** One sentence about everything, and of when it is. */
function headline() {
  const place = h("span");
  const asOf = h("span", { class: "hint" });
  return {
    node: h("div", { class: "row status-headline" }, h("h1", { id: "status-headline", "aria-live": "polite" }, place), asOf),
    show(seen, isOld) {
      const at = seen.at ? `${time(seen.at)} ${zoneName()}` : NONE;
      const bad = (seen.status?.services ?? []).filter((one) => one.status !== "online");
      if (isOld) showState(place, "broken", "Old figures: no connection");
      else if (!seen.status) showState(place, "connecting", "Asking");
      else if (!bad.length) showState(place, "online", `All ${seen.status.services.length} parts online`);
      else {
        const worst = bad.some((one) => one.status === "offline") ? "offline" : "degraded";
        showState(place, worst, bad.map((one) => `${one.name} ${one.status}`).join(", "));
      }
      const why = connection.error ? `: ${connection.error}` : "";
      say(asOf, isOld ? `as of ${at}, ${ago(seen.at)}${why}` : `as of ${at}`);
    },
  };
}

/** What says in a card's head that a look failed, and how to look again; else a hint. */
function trouble(hint = "") {
  const place = h("span", { class: "row status-trouble" }, h("span", { class: "hint" }, hint));
  let shown = null;
  return {
    place,
    failed: (look) => (error) => {
      const text = error?.message ?? null;
      if (shown === text) return;
      shown = text;
      if (text) fill(place, h("span", { class: "anomalous", role: "alert" }, `■ ${text}`), button("Try again", look));
      else fill(place, h("span", { class: "hint" }, hint));
    },
  };
}

/** Shows the status page. */
export function mount(root) {
  const seen = { looks: new Looks(), status, info: null, model: null, tables: null, stats: null, training: null, roundTrip: null,
    at: null };
  const views = { top: headline(), progress: progressView(), parts: partsView(), pipeline: pipeline(), champion: championView(),
    totals: totalsView() };
  const troubles = { parts: trouble(), flow: trouble("rates of 10 s; commits and latencies of 60 s"), model: trouble(), totals: trouble() };
  views.top.node.append(troubles.parts.place);
  const openModels = h("a", { href: link("models"), id: "status-models" }, "All models");
  root.append(views.top.node, views.progress.node, views.parts.node,
    card("Pipeline", { id: "status-pipeline", actions: troubles.flow.place }, views.pipeline.node),
    h("div", { class: "grid" },
      card("Champion model", { id: "status-champion", className: "span-5", actions: [troubles.model.place, openModels] },
        views.champion.node),
      card("Totals", { id: "status-totals", className: "span-7", actions: troubles.totals.place }, views.totals.node)));

  function show() {
    if (document.hidden) return;
    const isOld = ["stale", "broken", "refused"].includes(connection.state) || (seen.at !== null && Date.now() - seen.at > OLD_MS);
    root.classList.toggle("is-old", isOld);
    for (const view of Object.values(views)) view.show(seen, isOld);
  }

  const polls = [];
  function look(milliseconds, place, asking) {
    const again = () => polls[at].now();
    const at = polls.length;
    polls.push(null);
    polls[at] = poll(milliseconds, async (signal) => {
      await asking(signal);
      if (!signal.aborted) show();
    }, troubles[place].failed(again));
    return polls[at];
  }

  look(5_000, "parts", async (signal) => {
    const began = performance.now();
    seen.status = await get("/system-status", {}, { signal });
    seen.roundTrip = (performance.now() - began) / 1000;
    seen.at = Date.now();
  });
  const champion = look(5_000, "model", async (signal) => {
    const info = await get("/model-info", {}, { signal });
    if (info.loaded && info.model_version !== seen.model?.model.version) {
      seen.model = await get(`/models/${info.model_version}`, {}, { signal });
    }
    seen.info = info;
  });
  look(2_000, "flow", async (signal) => seen.looks.add(await (await ask("/metrics", { signal })).text()));
  // Later runs are told by events, as long as none is missed.
  let runsAreKnown = false;
  look(10_000, "totals", async (signal) => {
    [seen.tables, seen.stats] = await Promise.all([get("/tables", {}, { signal }), get("/stats", {}, { signal })]);
    if (runsAreKnown) return;
    const runs = await get("/runs", { limit: 300 }, { signal });
    seen.training = runs.find((run) => run.job === "train") ?? seen.training;
    runsAreKnown = true;
  });

  const listening = new AbortController();
  const hear = (kind, listener) => events.addEventListener(kind, listener, { signal: listening.signal });
  hear("status", ({ detail }) => {
    // The latencies and the time of an event are those of the change.
    seen.status = { ...seen.status, ...detail };
    champion.now();
    show();
  });
  hear("run", ({ detail }) => {
    if (detail.job === "train" && detail.id >= (seen.training?.id ?? 0)) seen.training = detail;
  });
  hear("missed", () => { runsAreKnown = false; });
  hear("connection", () => {
    if (connection.state !== "live") runsAreKnown = false;
    show();
  });
  const ticking = setInterval(show, 1000);
  show();
  return {
    zone: show,
    end() {
      listening.abort();
      clearInterval(ticking);
      for (const one of polls) one.end();
      views.pipeline.end();
    },
  };
}
