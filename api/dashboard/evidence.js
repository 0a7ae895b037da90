// The evidence of an alert, beside the page: what happened, why the model says so, and what people say about it.

import { link, read } from "./address.js";
import { download, get, path, post } from "./api.js";
import { chart } from "./charts.js";
import { button, dialog, failure, field, loading, named, pairTable, severity, shares, toast } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { ago, chartTime, duration, FEATURES, milliseconds, moment, number, percent, price, score, significant, time, words,
  zoneName } from "./format.js";
import { onPreference } from "./prefs.js";

const VERDICTS = ["true_positive", "false_positive", "unclear"];

/** Tries for an alert that is told but not stored yet, and the pause between them. */
const TRIES = 8;
const PAUSE_MS = 2_000;

/** How often the evidence is read again while its events are still coming. */
const AGAIN_MS = 15_000;

/** Opens the evidence of an alert: {id, close()}. `onChange(alert)` hears of acknowledgements and verdicts, `onClose()` of the end. */
export function openAlert(id, { onClose, onChange } = {}) {
  const asking = new AbortController();
  let page = null;
  let timer = 0;
  const parts = Object.fromEntries(["head", "why", "events",
    "said"].map((name) => [name, h("div", { class: "stack", id: `evidence-${name}` })]));
  const plot = h("div", { class: "evidence-plot", id: "evidence-chart" });
  const around = h("section", { "aria-label": "Events around the alert" }, h("h3", {}, "60 s around its peak"), plot,
    h("p", { class: "hint" }, "◆ events of the alert, the largest its peak; bars: volume in base units"));
  const actions = answers(id, (record) => {
    page = { ...page, ...record };
    drawSaid();
    drawHead();
    onChange?.(page.alert);
  });
  const content = h("div", { class: "stack", id: "evidence" }, loading("Loading the evidence", 640));
  const opened = dialog("Evidence", content, { side: true, onClose: end });
  const picture = chart(plot, "Price and volume around the alert");
  const stopPreference = onPreference((name) => name === "zone" && page && draw());

  async function load(tries = TRIES) {
    clearTimeout(timer);
    try {
      page = await get(`/alerts/${id}`, {}, { signal: asking.signal });
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404 && tries > 1 && !page) {
        fill(content, loading("The alert is being stored", 640));
        timer = setTimeout(() => load(tries - 1), PAUSE_MS);
      } else if (!page) {
        fill(content, failure(error, () => load()));
      } else {
        toast(`The evidence could not be read again: ${error.message}`, "bad");
      }
      return;
    }
    if (!actions.node.isConnected) fill(content, parts.head, actions.node, around, parts.why, parts.events, parts.said);
    draw();
    if (Date.now() - milliseconds(page.alert.last_at) < 90_000) timer = setTimeout(load, AGAIN_MS);
  }

  function draw() {
    drawHead();
    drawWhy();
    drawEvents();
    drawSaid();
    drawAround();
  }

  function drawHead() {
    const { alert } = page;
    const range = { symbol: alert.symbol, from: alert.raised_at, to: new Date(milliseconds(alert.last_at) + 1_000).toISOString() };
    const rows = [
      ["Raised", `${moment(alert.raised_at)}, ${ago(alert.raised_at)}`],
      ["Lasted", `${duration((milliseconds(alert.last_at) - milliseconds(alert.raised_at)) / 1000 || 1)}, `
        + `${number(alert.events)} event${alert.events === 1 ? "" : "s"}`],
      ["Score at its peak", [h("span", { class: "anomalous" }, score(alert.peak.anomaly_score)), ` at ${time(alert.peak.timestamp)}`]],
      ["Model", h("a", { href: link("models", { version: alert.peak.model_version }) }, `Version ${alert.peak.model_version}`)],
    ];
    fill(parts.head,
      h("div", { class: "row" }, severity(alert.severity),
        h("strong", { class: "evidence-title" }, `${words(alert.alert_type)} · ${alert.symbol}`),
        alert.source === "simulated" && h("span", { class: "badge badge-simulated" }, "SIMULATED")),
      pairTable(rows),
      h("div", { class: "row" },
        h("a", { id: "evidence-rows", href: link("analytics", { ...range, table: "predictions" }) }, "Exact rows"),
        button("Raw events (JSON)", () => saveRaw(range), { id: "evidence-raw" }),
        button("Copy link", copy, { id: "evidence-copy" })));
  }

  /** Saves the events as a file: a link could not tell the service a key. */
  async function saveRaw(range) {
    try {
      await download(path("/tables/events/rows", { ...range, limit: 1000 }), `events-${range.symbol}-${id.replace(":", "-")}.json`);
    } catch (error) {
      toast(`No file: ${error.message}`, "bad");
    }
  }

  async function copy() {
    const hash = read().query.alert === id ? location.hash : link("live", { alert: id });
    const url = `${location.origin}${location.pathname}${hash}`;
    try {
      await navigator.clipboard.writeText(url);
      toast("The link is copied");
    } catch {
      globalThis.prompt("The link to this view", url);
    }
  }

  function drawWhy() {
    const { explanation, not_explained: none } = page;
    if (!explanation) {
      fill(parts.why, h("h3", {}, "Why"), h("p", { class: "notice" }, `Not explained: ${none ?? "the model cannot be asked"}`));
      return;
    }
    const { path: of, alert_threshold: threshold } = explanation;
    const leading = explanation.features[0];
    fill(parts.why, h("h3", {}, "Why the model says so"),
      h("p", {}, `${FEATURES[leading.feature]?.name ?? leading.feature} makes ${percent(leading.share, 0)} of it. `
        + `A row is set apart by ${number(of.mean_depth, 1)} `
        + `splits on average where ordinary ones take ${number(of.training_depth, 1)}; `
        + `${of.isolated_within_3_splits} of ${of.trees} trees need three at most. `
        + `Scores below ${score(threshold)} are worth an alert, and z-scores that calm training rows do not come near.`),
      h("div", { class: "scroll-x", tabindex: "0", role: "group", "aria-label": "Shares of the features" }, shares(explanation.features)));
  }

  function drawEvents() {
    const { events, alert } = page;
    const heads = [`Time (${zoneName()})`, "Event", "Score", "Severity", "Leading feature", "Share"];
    const isEnd = (at) => (at === 2 || at === 5 ? "end" : "");
    const isCut = events.length < alert.events;
    fill(parts.events, h("h3", {}, isCut ? `Its first ${number(events.length)} events of ${number(alert.events)}` : "Its events"),
      h("div", { class: "scroll-x evidence-events", tabindex: "0", role: "group", "aria-label": "Events of the alert" },
        h("table", { class: "plain" },
          h("thead", {}, h("tr", {}, heads.map((text, at) => h("th", { scope: "col", class: isEnd(at) }, text)))),
          h("tbody", {}, events.map((one) => h("tr", {}, [time(one.timestamp), `${one.id}${one.id === alert.peak.id ? " (peak)" : ""}`,
            score(one.anomaly_score), words(one.severity), FEATURES[one.leading_feature]?.name ?? one.leading_feature,
              percent(one.share, 0)]
            .map((text, at) => h("td", { class: `nowrap ${isEnd(at)}` }, text))))))));
  }

  function drawSaid() {
    const said = [...page.acknowledgements.map((one) => ({ ...one, what: "Acknowledged" })),
      ...page.verdicts.map((one) => ({ ...one, what: words(one.verdict) }))]
      .sort((a, b) => milliseconds(b.at) - milliseconds(a.at));
    actions.set(page);
    fill(parts.said, h("h3", {}, "What people said"), said.length === 0 && h("p", { class: "hint" }, "Nobody has said anything yet."),
      said.length > 0 && h("ul", { class: "evidence-said" }, said.map((one) => h("li", {}, h("strong", {}, one.what), ` by ${one.who}, `,
        h("span", { title: moment(one.at) }, `${time(one.at, "both")} (${ago(one.at)})`),
          one.note && h("p", {}, one.note)))));
  }

  function drawAround() {
    const { around: of, events, alert } = page;
    const of60 = new Map(events.map((one) => [one.id, one]));
    const marked = of.filter((one) => of60.has(one.id));
    const x = (rows) => rows.map((one) => chartTime(one.timestamp));
    const title = (text) => ({ text, font: { size: 11 }, standoff: 4 });
    picture.draw((colour) => [
      { type: "scatter", mode: "lines", x: x(of), y: of.map((one) => one.price), line: { color: colour("line"), width: 1.6 },
        hovertemplate: "%{y:,.6~g}<extra>price</extra>" },
      { type: "scatter", mode: "markers", x: x(marked), y: marked.map((one) => one.price),
        text: marked.map((one) => score(of60.get(one.id).anomaly_score)),
        marker: { symbol: "diamond", opacity: 1, color: colour("alert"), size: marked.map((one) => (one.id === alert.peak.id ? 13 : 9)),
          line: { width: 1, color: colour("mid") } },
        hovertemplate: "%{text}<extra>score</extra>" },
      { type: "bar", x: x(of), y: of.map((one) => one.volume), yaxis: "y2",
        marker: { color: of.map((one) => colour(of60.has(one.id) ? "anomaly" : "soft")) },
        hovertemplate: "%{y:.4~g}<extra>volume</extra>" },
    ], {
      margin: { l: 76, r: 8, t: 8, b: 36 }, hovermode: "x", hoversubplots: "axis", bargap: 0.2,
      xaxis: { type: "date", anchor: "y2", hoverformat: "%H:%M:%S", showspikes: true, spikemode: "across", spikethickness: 1,
        automargin: false, tickangle: 0,
        nticks: Math.ceil(plot.clientWidth / 110), title: title(zoneName()) },
      yaxis: { domain: [0.36, 1], automargin: false, tickformat: ",~r", title: title("Price") },
      yaxis2: { domain: [0, 0.28], automargin: false, title: title("Volume"), nticks: 3 },
    }).catch((error) => fill(plot, failure(error, drawAround)));
    plot.setAttribute("aria-label", `Price and volume around the alert: ${of.length} events${page.around_is_cut ? ", cut" : ""}, from `
      + `${price(Math.min(...of.map((one) => one.price)))} to ${price(Math.max(...of.map((one) => one.price)))}, largest volume `
      + `${significant(Math.max(...of.map((one) => one.volume)))}`);
  }

  function end() {
    asking.abort();
    clearTimeout(timer);
    stopPreference();
    picture.end();
    onClose?.();
  }

  load();
  return { id, close: () => opened.close() };
}

/** The form that acknowledges an alert or says what it was: {node, set(page)}. */
function answers(id, onRecord) {
  const note = named(field("Note, for the history (optional)", { placeholder: "asked the venue" }), "evidence-note");
  const wrong = h("p", { class: "anomalous", role: "alert", id: "evidence-error" });
  const acknowledge = button("Acknowledge", () => send("ack", {}), { kind: "primary", id: "evidence-ack" });
  const verdicts = VERDICTS.map((of) => button(words(of), () => send("verdict", { verdict: of }),
    { id: `evidence-${of.replace("_", "-")}`, pressed: false }));
  const all = [acknowledge, ...verdicts];

  async function send(to, body) {
    for (const one of all) one.disabled = true;
    say(wrong, "");
    try {
      onRecord(await post(`/alerts/${id}/${to}`, { ...body, note: note.value().trim() }));
      note.set("");
    } catch (error) {
      say(wrong, `This was not kept: ${[error.message, ...(error.parts ?? []).map((part) => part.detail)].join("; ")}`);
    } finally {
      for (const one of all) one.disabled = false;
    }
  }

  return {
    node: h("section", { class: "evidence-actions", "aria-label": "What you say about it" }, note.node,
      h("div", { class: "row" }, acknowledge, h("div", { class: "row evidence-verdicts", role: "group", "aria-label": "Verdict" },
        verdicts)), wrong),
    set({ alert }) {
      say(acknowledge, alert.acknowledged ? "Acknowledged ✓" : "Acknowledge");
      VERDICTS.forEach((of, at) => verdicts[at].setAttribute("aria-pressed", String(alert.verdict === of)));
    },
  };
}
