// The status page: how the parts are, what flows through them, which model judges, how much there is of everything.

import { link } from "./address.js";
import { ask, get, key, poll } from "./api.js";
import { connection, events, status } from "./app.js";
import { button, card, empty, figure, loading, pairs, showState } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { NONE, ago, bytes, measured, moment, number, percent, perSecond, score, time, zoneName } from "./format.js";
import { APPENDED, COMMITS, LATENCY, Looks, PREDICTIONS, REQUESTS, TICKS } from "./metrics.js";
import { logged, pipeline } from "./status-pipeline.js";

const OLD_MS = 20_000;

/** How long parts take that no look at them can tell: a request of this page, from an event to its prediction, a look at
    what is due. */
const LATENCIES = {
  API: ({ roundTrip }) => roundTrip,
  Stream: ({ looks }) => looks.quantile(LATENCY, 0.5),
  Scheduler: ({ looks }) => looks.mean(TICKS),
};

/** What a part's card says besides its latency: a name and a text. */
const FACTS = {
  API: ["Asked", ({ looks }) => perSecond(looks.rate(REQUESTS), "/s")],
  Log: ["Appended", ({ looks }) => perSecond(looks.rate(APPENDED), "/s")],
  Stream: ["Behind", ({ looks }) => `${number(looks.sum("sentinel_fold_lag_events"))} events, ${lag(looks)}`],
  Lake: ["Commit", ({ looks }) => measured(looks.mean(COMMITS))],
  Scheduler: ["Runs", ({ looks }) => {
    const waiting = looks.sum("sentinel_runs_waiting");
    return `${number(looks.sum("sentinel_runs_going"))} going${waiting ? `, ${number(waiting)} waiting` : ""}`;
  }],
  Model: ["Predicted", ({ looks }) => perSecond(looks.rate(PREDICTIONS), "/s")],
};

/** How far behind the log the stream job is, in time. */
function lag(looks) {
  const seconds = looks.greatest("sentinel_fold_lag_seconds");
  return seconds === 0 ? "0 s" : measured(seconds);
}

function partCard(name) {
  const place = h("span");
  const [fact, tell] = FACTS[name];
  const facts = pairs(["Latency", fact]);
  const details = h("p", { class: "status-details" });
  return {
    node: card(name, { id: `status-part-${name.toLowerCase()}`, actions: place, className: "status-part" }, facts.node, details),
    show(service, seen) {
      showState(place, service.status);
      // What comes with an event was not measured, and says 0.
      facts.set("Latency", measured(LATENCIES[name] ? LATENCIES[name](seen) : service.response_time_ms / 1000 || null));
      facts.set(fact, tell(seen));
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
      facts.set("Model", `${model.name} version ${model.version}, ${model.status}`);
      facts.set("Trained", `${ago(model.created)}, ${moment(model.created)}`);
      facts.set("Forest", `${number(parameters.trees)} trees of up to ${number(parameters.max_samples)} rows`);
      facts.set("Contamination", percent(parameters.contamination, 2));
      facts.set("Seed", parameters.seed);
      facts.set("Threshold", score(model.threshold));
      facts.set("Trained on", `${inputs.table}, Delta version ${inputs.delta_version}`);
      facts.set("Rows", `${number(inputs.rows)}, ${number(inputs.rows_dropped)} dropped, ${number(inputs.rows_trimmed)} trimmed`);
      facts.set("Markets", inputs.symbols.join(", "));
      facts.set("From", moment(inputs.from));
      facts.set("To", moment(inputs.to));
    },
  };
}

/** Predictions have a page; the rows of other tables are shown as they are answered, where no key is needed for that. */
function tableLink(name) {
  if (name === "predictions") return h("a", { href: link("analytics") }, name);
  return key() ? name : h("a", { href: `/tables/${name}/rows?limit=100`, target: "_blank", rel: "noopener" }, name);
}

function totalsView() {
  const figures = Object.fromEntries([["events", "Events logged"], ["predictions", "Predictions"], ["anomalies", "Anomalies"],
    ["alerts", "Alerts"], ["memory", "Memory"], ["version", "Program"]]
    .map(([name, label]) => [name, figure(label, { id: `status-total-${name}` })]));
  const tables = h("div", { class: "status-tables scroll-x", tabindex: "0", role: "region", "aria-label": "Tables" },
    loading("Asking for the tables", 322));
  const rows = new Map();

  function row(name, about) {
    const cells = ["rows", "files", "bytes", "version"].map(() => h("td", { class: "end" }));
    const node = h("tr", {}, h("th", { scope: "row", title: about }, tableLink(name)), cells);
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
      const [critical, notices] = ["critical", "notice"].map((severity) => looks.sum("sentinel_alerts_total", severity));
      figures.alerts.set(number(looks.sum("sentinel_alerts_total") - notices), `${number(critical)} critical, since it started`);
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

  const parts = look(5_000, "parts", async (signal) => {
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
  // An event tells of a change, and measures nothing.
  hear("status", () => {
    parts.now();
    champion.now();
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
