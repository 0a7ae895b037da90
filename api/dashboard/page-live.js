// Live feed: what is scored this second, drawn together with what was before it, and the alerts that came of it.

import { change } from "./address.js";
import { get } from "./api.js";
import { events } from "./app.js";
import { button, card, choice, empty, failure, figure, gauge, loading, named, select, state, toggle } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { openAlert } from "./evidence.js";
import { ago, duration, NONE, number, percent, price, score, time, zoneName } from "./format.js";
import { alertList, RANKS } from "./live-alerts.js";
import { lined, liveChart } from "./live-chart.js";
import { Feed, WINDOWS } from "./live-series.js";
import { follow } from "./stream.js";

const DRAW_MS = 250;

/** Shows the live page. */
export function mount(root, first) {
  let query = {};
  let feed = null;
  let shown = null;
  let symbols = [];
  let model = null;
  let connection = { state: "connecting" };
  let wasBroken = false;
  let stop = () => {};
  let asking = new AbortController();
  let isPaused = false;
  let isDirty = false;
  let pending = [0, 0];
  let arrivals = 0;
  let note = null;
  let askedAt = 0;
  let evidence = null;
  const perSecond = [];

  const symbolList = named(select("Symbol", [["", "All symbols"]], "", (symbol) => change({ symbol })), "live-symbol");
  const windows = named(choice("Window", Object.keys(WINDOWS).map((name) => [name, name.replace("m", " m").replace("h", " h")]), "15m",
    (window) => change({ window })), "live-window");
  const pauseButton = button("Pause", () => pause(!isPaused), { id: "live-pause", pressed: false });
  const news = h("span", { id: "live-new", class: "hint live-new" });
  const banner = h("p", { id: "live-banner", class: "live-banner" });
  const rate = gauge("Anomaly rate, last 5 min");
  const expected = h("p", { class: "hint", id: "live-expected" });
  const figures = Object.fromEntries([["price", "Price"], ["symbols", "Symbols"], ["predictions", "Predictions"],
    ["anomalies", "Anomalies"], ["rate", "Anomaly rate"], ["average", "Average score"], ["lowest", "Lowest score"],
    ["updates", "Updates", "per s"], ["age", "Last event"]]
    .map(([name, label, unit]) => [name, figure(label, { id: `live-${name}`, unit })]));
  const numbers = h("div", { class: "live-numbers" }, h("div", { class: "live-gauge" }, rate.node, expected),
    h("div", { class: "figures live-figures" }, Object.values(figures).map((one) => one.node)));
  const cover = h("div", { class: "live-cover" }, loading("Loading the history", 400));
  const picture = liveChart(cover, { onAlert: showAlert, onFailed(error) {
    cover.hidden = false;
    fill(cover, failure(error, begin));
  } });
  const severities = named(choice("Severity", [["notice", "All"], ["", "Warning +"], ["high", "High +"], ["critical", "Critical"]], "",
    (of) => change({ severity: of })), "live-severity");
  const unseen = named(toggle("Unacknowledged", false, (on) => change({ open: on ? 1 : null })), "live-open");
  const alerts = alertList({ onOpen: showAlert, filters: h("div", { class: "row" }, severities.node, unseen.node) });

  fill(root, h("h1", { class: "live-said" }, "Live feed"),
    h("div", { class: "toolbar" }, symbolList.node, h("div", { class: "field" }, h("span", {}, "Window"), windows.node), pauseButton,
      news, banner),
    h("section", { class: "card", id: "live-now", "aria-label": "Key figures of the window" }, numbers),
    h("div", { class: "grid" },
      card("Price and anomaly score", { id: "live-feed", className: "span-8", actions: picture.key }, picture.frame),
      card("Alerts", { className: "span-4" }, alerts.node)));

  const window = () => (Object.hasOwn(WINDOWS, query.window) ? query.window : "15m");
  const symbol = () => (/^[A-Z0-9]+-[A-Z0-9]+$/.test(query.symbol ?? "") ? query.symbol : null);
  const rank = () => (RANKS.includes(query.severity) ? query.severity : null);

  /** Puts an alert into the address, which opens its evidence. */
  function showAlert(alert) {
    change({ alert }, { replace: false });
  }

  /** Begins a window anew: its history is asked for, the stream goes on. */
  function begin() {
    asking.abort();
    asking = new AbortController();
    feed = new Feed(symbol(), window(), symbols.length);
    shown = null;
    for (const one of Object.values(figures)) one.set(NONE);
    pause(false);
    fill(cover, loading("Loading the history", 400)).hidden = false;
    mend(feed, asking.signal);
  }

  /** Asks the lake until there is no gap; with growing pauses, as long as the stream says nothing. */
  async function mend(of, signal) {
    if (of.isMending) return;
    of.isMending = true;
    for (let rest = 3_000; of.gap && !signal.aborted; rest = Math.min(rest * 1.3, 15_000)) {
      try {
        await of.mend(signal);
        if (signal.aborted) return;
        of.isRead = true;
        uncover();
      } catch (error) {
        if (signal.aborted) return;
        if (cover.hidden) tell(`The history cannot be read: ${error.message}`);
        else fill(cover, failure(error, begin));
      }
      isDirty = true;
      if (of.gap) await new Promise((resolve) => setTimeout(resolve, rest));
    }
    of.isMending = false;
  }

  function uncover() {
    cover.hidden = feed.prices.size > 0 || feed.newest > 0;
    if (!cover.hidden) {
      fill(cover, empty("No events yet",
        "Prices appear as soon as a source sends events, scores with the first model. This page looks by itself.",
        h("a", { class: "button", href: "#/status" }, "See the status")));
    }
  }

  function connect() {
    stop();
    wasBroken = false;
    stop = follow({ kinds: ["prediction"], symbol: symbol(), onEvent, onState });
  }

  function onEvent(kind, data) {
    if (kind === "missed") {
      const count = Number.isFinite(data.count) ? number(data.count) : "Some";
      tell(`${count} events were not told; they are read from the lake.`);
      feed.miss();
      mend(feed, asking.signal);
      return;
    }
    if (!feed.take(data)) return;
    arrivals += 1;
    pending[0] += 1;
    isDirty = true;
    if (feed.isRead && !cover.hidden) uncover();
    if (data.model_version !== model?.model_version && Date.now() - askedAt > 10_000) askModel();
  }

  function onState(to) {
    connection = to;
    if (to.state === "live" && wasBroken) {
      feed.miss();
      mend(feed, asking.signal);
      alerts.load();
    }
    wasBroken = to.state !== "live" && (wasBroken || to.state !== "connecting");
    showState();
  }

  async function askModel() {
    askedAt = Date.now();
    model = await get("/model-info").catch(() => model);
    say(expected, model?.loaded
      ? `Model ${model.model_version} expects ${percent(model.contamination, 1)}; full at ${percent(model.contamination * 5, 0)}`
      : model ? "No model yet: scores follow with the first one" : "The model cannot be read");
    isDirty = true;
  }

  /** Says something beside the state, for a while. */
  function tell(text) {
    note = { text, until: Date.now() + 20_000 };
    showState();
  }

  function showState() {
    const is = connection.state;
    const isOld = !["live", "connecting"].includes(is) || (is === "connecting" && wasBroken);
    const quiet = !isOld && feed?.newest && Date.now() - Math.max(feed.newest, feed.arrived) > 60_000;
    numbers.classList.toggle("is-old", Boolean(isOld || quiet));
    banner.dataset.tone = isOld ? "bad" : quiet || note ? "fair" : "good";
    if (isOld) {
      const next = connection.retryAt ? ` Next try in ${Math.max(Math.ceil((connection.retryAt - Date.now()) / 1000), 0)} s.` : "";
      const heading = { stale: "The stream is stale", refused: "An API key is needed",
        connecting: "Connecting again" }[is] ?? "The stream is disconnected";
      const until = feed?.newest ? ` The figures are as of ${time(feed.newest)} ${zoneName()}.` : "";
      fill(banner, state(is, heading), ` ${connection.error ? `${connection.error}.` : ""}${next}${until}`);
    } else if (note && note.until > Date.now()) {
      fill(banner, note.text);
    } else if (quiet) {
      fill(banner, state("stale", "No events"), ` for ${duration(Math.floor((Date.now() - feed.newest) / 1000))}: the source is silent.`);
    } else {
      note = null;
      fill(banner, is === "live" ? `Live since ${time(connection.since)} ${zoneName()}` : state("connecting", "Connecting"));
    }
  }

  function pause(to) {
    isPaused = to;
    pending = [0, 0];
    say(pauseButton, to ? "Resume" : "Pause");
    pauseButton.setAttribute("aria-pressed", String(to));
    say(news, "");
    picture.anew();
    alerts.pause(to);
    if (shown) show();
    isDirty = true;
  }

  function render() {
    const { all, recent, price: newest } = feed.figures();
    const share = (of) => (of.count ? of.anomalies / of.count : NaN);
    const normal = model?.loaded ? model.contamination : null;
    figures.price.node.hidden = !feed.symbol;
    figures.symbols.node.hidden = Boolean(feed.symbol);
    figures.price.set(price(newest));
    figures.symbols.set(number(feed.prices.size));
    figures.predictions.set(number(all.count));
    figures.anomalies.set(number(all.anomalies));
    figures.rate.set(percent(share(all), 2));
    figures.average.set(all.count ? score(all.sum / all.count) : NONE);
    figures.lowest.set(score(all.low));
    const times = share(recent) / normal;
    rate.set(times / 5, percent(share(recent), 2), !normal || !recent.count ? "idle" : times <= 2 ? "good" : times <= 4 ? "fair" : "bad");
    if (picture.isResting()) {
      isDirty = true;
      return;
    }
    show();
  }

  /** Shows the picture of this moment. */
  function show() {
    shown = feed.view(lined(symbols));
    draw();
  }

  /** Draws what is shown, which does not change while the page is paused. */
  function draw() {
    picture.draw(shown, feed.symbol, isPaused);
  }

  function tick() {
    if (!feed || !isDirty || document.hidden) return;
    isDirty = false;
    if (isPaused) say(news, `${number(pending[0])} new${pending[1] ? `, ${number(pending[1])} alert${pending[1] === 1 ? "" : "s"}` : ""}`);
    else if (cover.hidden) render();
  }

  function second() {
    perSecond.push(arrivals);
    arrivals = 0;
    if (perSecond.length > 5) perSecond.shift();
    showState();
    if (isPaused || !feed) return;
    figures.updates.set(number(perSecond.reduce((sum, one) => sum + one, 0) / perSecond.length, 1));
    figures.age.set(feed.newest ? ago(Math.min(feed.newest, Date.now())) : NONE, feed.newest ? `${time(feed.newest)} ${zoneName()}` : "");
    alerts.age();
    if (connection.state === "live") isDirty = true;
  }

  function onAlert({ detail }) {
    const isNotice = detail.severity === "notice";
    if ((symbol() && detail.symbol !== symbol()) || (isNotice && rank() !== "notice")) return;
    pending[1] += detail.is_raising ? 1 : 0;
    if (!isNotice) {
      feed?.mark(detail.id,
        { at: Date.parse(detail.timestamp), symbol: detail.symbol, score: detail.anomaly_score, alert: detail.alert_id });
    }
    alerts.take(detail);
    isDirty = true;
  }

  function showEvidence(id) {
    if (evidence?.id === id) return;
    const before = evidence;
    evidence = null;
    before?.close();
    if (!/^\d+:\d+$/.test(id ?? "")) return;
    const opened = openAlert(id, {
      onChange: (alert) => alerts.put(alert),
      onClose() {
        if (evidence !== opened) return;
        evidence = null;
        change({ alert: null });
        alerts.node.querySelector(`[data-alert="${id}"]`)?.focus();
      },
    });
    evidence = opened;
  }

  function update(to) {
    const before = query;
    const changed = (...names) => !feed || names.some((name) => before[name] !== to[name]);
    query = to;
    symbolList.set(symbol() ?? "");
    windows.set(window());
    severities.set(rank() ?? "");
    unseen.set(Boolean(to.open));
    if (changed("symbol", "severity", "open")) {
      alerts.change({ symbol: symbol(), severity: rank(), open: Boolean(to.open) });
    }
    if (changed("symbol")) connect();
    if (changed("symbol", "window")) begin();
    showEvidence(to.alert);
  }

  async function start() {
    askModel();
    const { signal } = asking;
    const stats = await get("/stats", {}, { signal }).catch((error) => {
      if (error.name !== "AbortError") tell(`The symbols cannot be read: ${error.message}`);
      return { per_symbol: {} };
    });
    if (isOver) return;
    symbols = Object.entries(stats.per_symbol).sort(([a, of], [b, to]) => to.count - of.count || a.localeCompare(b)).map(([name]) => name);
    const known = [...new Set(symbols.concat(symbol() ?? []))].sort();
    symbolList.options([["", "All symbols"], ...known.map((name) => [name, name])]);
    update(query);
  }

  let isOver = false;
  const onMissed = () => alerts.load();
  events.addEventListener("alert", onAlert);
  events.addEventListener("missed", onMissed);
  const timers = [setInterval(tick, DRAW_MS), setInterval(second, 1_000)];
  query = first;
  showState();
  start();

  return {
    update(to) {
      if (feed) update(to);
      else query = to;
    },
    zone() {
      if (shown) draw();
      showState();
    },
    end() {
      isOver = true;
      timers.forEach(clearInterval);
      events.removeEventListener("alert", onAlert);
      events.removeEventListener("missed", onMissed);
      asking.abort();
      stop();
      alerts.end();
      picture.end();
      const open = evidence;
      evidence = null;
      open?.close();
    },
  };
}
