// Live feed: what is scored this second, drawn together with what was before it, and the alerts that came of it.

import { change } from "./address.js";
import { get, sql } from "./api.js";
import { events } from "./app.js";
import { chart, decimated } from "./charts.js";
import { button, card, choice, empty, failure, figure, gauge, loading, select, severity, state, toggle } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { openAlert } from "./evidence.js";
import { ago, chartTime, duration, FEATURES, milliseconds, NONE, number, percent, price, score, time, words, zoneName } from "./format.js";
import { follow } from "./stream.js";

/** Windows: how long they are, and the stretches of time that they are counted in; milliseconds. */
const WINDOWS = { "5m": [300_000, 500], "15m": [900_000, 1_000], "1h": [3_600_000, 4_000], "4h": [14_400_000, 16_000] };
const PRICE_WIDTHS = [500, 1_000, 2_000, 4_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000];
const HISTORY_ROWS = 6_000;
const RATE_MS = 300_000;
const DRAW_MS = 250;

/** Points of the chart: prices, scores, marks. Marks are elements, so that many of them are slow. */
const MOST = { prices: 900, scores: 910, marks: 60 };

/** Part of the time that drawing may take: a slow machine draws more rarely. */
const DRAW_SHARE = 0.4;

const COLOURS = ["line", "second", "fourth", "third", "fifth", "sixth"];
const RANKS = ["warning", "high", "critical"];
const MOST_ALERTS = 500;

/** Numbers of stretches of time, in a ring as long as the window: the newest overwrites what has left it. */
class Ring {
  constructor(width, window) {
    this.width = width;
    this.size = Math.ceil(window / width) + 2;
    for (const name of ["stretch", "low", "high", "last", "time", "count", "anomalies", "sum"]) this[name] = new Float64Array(this.size);
    this.stretch.fill(-1);
  }

  /** The place of a time, emptied where it is another stretch's or to be set anew; -1 where the time is too old. */
  place(at, anew = false) {
    const stretch = Math.floor(at / this.width);
    const place = stretch % this.size;
    if (this.stretch[place] > stretch) return -1;
    if (anew || this.stretch[place] < stretch) {
      this.stretch[place] = stretch;
      this.low[place] = Infinity;
      this.high[place] = this.time[place] = -Infinity;
      this.last[place] = NaN;
      this.count[place] = this.anomalies[place] = this.sum[place] = 0;
    }
    return place;
  }

  /** Takes in values between `low` and `high`, of which `last` was at `at`. Twice the same changes nothing. */
  spread(at, low, high = low, last = low) {
    const place = this.place(at);
    if (place < 0) return;
    this.low[place] = Math.min(this.low[place], low);
    this.high[place] = Math.max(this.high[place], high);
    if (at < this.time[place]) return;
    this.time[place] = at;
    this.last[place] = last;
  }

  /** Visits the places of a span of time, the oldest first. */
  visit(from, to, see) {
    for (let stretch = Math.floor(from / this.width); stretch <= to / this.width; stretch += 1) {
      const place = stretch % this.size;
      if (this.stretch[place] === stretch) see(place);
    }
  }

  /** A line through the least and greatest value of every stretch, with at most so many points. */
  line(from, to, most) {
    const x = [];
    const y = [];
    this.visit(from, to, (place) => {
      if (this.time[place] === -Infinity) return;
      const [low, high, last] = [this.low[place], this.high[place], this.last[place]];
      if (low < high) {
        x.push(this.stretch[place] * this.width);
        y.push(high - last < last - low ? low : high);
      }
      x.push(this.time[place]);
      y.push(low < high ? (high - last < last - low ? high : low) : last);
    });
    const kept = decimated(y, most);
    return { x: kept.map((at) => x[at]), y: kept.map((at) => y[at]) };
  }
}

/**
 * What is known of a window. Its history comes from the lake, its end from the stream: `gap` is what the lake has still to
 * tell, from a time on until the stretch in which the stream began. In it what the lake says replaces what was counted, as
 * soon as the lake is past it, so that nothing is missing and nothing counted twice.
 */
class Feed {
  constructor(symbol, window, width, priceWidth) {
    Object.assign(this, { symbol, window, priceWidth, newest: 0, arrived: 0, gap: null });
    this.scores = new Ring(width, window);
    this.prices = new Map();
    this.marks = new Map();
    this.told = new Map();
  }

  /** Takes in a prediction of the stream; false where it was told before. */
  take(event) {
    const at = Date.parse(event.timestamp);
    const offset = Number(event.id.slice(event.id.indexOf(":") + 1));
    const before = this.told.get(event.symbol);
    if (before && offset <= before.offset && at <= before.at) return false;
    this.told.set(event.symbol, { offset, at });
    this.newest = Math.max(this.newest, at);
    this.arrived = Date.now();
    if (this.gap) this.gap.live ??= at;
    const place = this.scores.place(at);
    if (place >= 0) {
      if (event.anomaly_score < this.scores.low[place]) {
        this.scores.low[place] = this.scores.last[place] = event.anomaly_score;
        this.scores.time[place] = at;
      }
      this.scores.count[place] += 1;
      this.scores.anomalies[place] += event.is_anomaly ? 1 : 0;
      this.scores.sum[place] += event.anomaly_score;
    }
    if (Number.isFinite(event.price)) this.ring(event.symbol).spread(at, event.price);
    if (event.is_anomaly) this.mark(event.id, { at, symbol: event.symbol, price: event.price, score: event.anomaly_score });
    return true;
  }

  ring(symbol) {
    if (!this.prices.has(symbol)) this.prices.set(symbol, new Ring(this.priceWidth, this.window));
    return this.prices.get(symbol);
  }

  /** Marks an anomaly; `alert` is the alert that it belongs to. Of too many the gravest stay. */
  mark(id, { alert, price: of, ...more }) {
    const before = this.marks.get(id);
    this.marks.set(id, { ...more, alert: alert ?? before?.alert, price: of ?? before?.price });
    if (this.marks.size <= 10 * MOST.marks) return;
    const inside = [...this.marks].filter(([, one]) => one.at >= this.newest - this.window);
    this.marks = new Map(inside.sort(([, a], [, b]) => a.score - b.score).slice(0, 5 * MOST.marks));
  }

  /** The time up to which is drawn: that of the newest event, and what has passed since. */
  end() {
    const now = Date.now();
    if (this.arrived) return this.newest + Math.min(now - this.arrived, this.window);
    return now - this.newest < this.window ? Math.max(now, this.newest) : this.newest || now;
  }

  /** Begins to ask the lake for what the stream may have left out. */
  miss() {
    if (this.newest) this.gap = { from: Math.min(this.gap?.from ?? Infinity, this.newest - 20_000), live: null };
  }

  /** Asks the lake for what is in the gap, and takes it in. */
  async mend(signal) {
    if (!this.newest) {
      const newest = await get("/tables/features/rows", { symbol: this.symbol, columns: "timestamp", limit: 1 }, { signal });
      this.newest = Math.max(milliseconds(newest.rows[0]?.timestamp) ?? 0, this.newest);
      this.gap.from = Math.min(this.end(), this.newest || Infinity, Date.now()) - this.window;
    }
    const gap = this.gap;
    const since = `timestamp >= '${new Date(Math.floor(gap.from / this.scores.width) * this.scores.width).toISOString()}'`;
    const where = this.symbol ? `${since} AND symbol = '${this.symbol}'` : since;
    const bin = (width) => `date_bin(INTERVAL '${width} milliseconds', timestamp, TIMESTAMP '1970-01-01T00:00:00Z')`;
    const [scores, prices, marks] = await Promise.all([
      sql(`SELECT ${bin(this.scores.width)} AS t, count(*) AS n, sum(CASE WHEN is_anomaly THEN 1 ELSE 0 END) AS a,
        sum(anomaly_score) AS s, min(anomaly_score) AS low, max(timestamp) AS at FROM predictions WHERE ${where} GROUP BY 1`, { signal }),
      sql(`SELECT symbol, ${bin(this.priceWidth)} AS t, min(price) AS low, max(price) AS high, max(timestamp) AS at,
        last_value(price ORDER BY timestamp, "offset") AS last FROM features WHERE ${where} GROUP BY 1, 2 ORDER BY 2 DESC`, { signal }),
      sql(`SELECT p.symbol, p.timestamp, p.partition, p."offset", p.anomaly_score, f.price, a.alert_id
        FROM (SELECT * FROM predictions WHERE is_anomaly AND ${where} ORDER BY anomaly_score LIMIT ${5 * MOST.marks}) p
        LEFT JOIN (SELECT * FROM features WHERE ${where}) f ON f.partition = p.partition AND f."offset" = p."offset"
        LEFT JOIN (SELECT * FROM alerts WHERE ${where}) a ON a.partition = p.partition AND a."offset" = p."offset"`, { signal }),
    ]);
    if (gap === this.gap) this.settle(scores);
    for (const row of prices) this.ring(row.symbol).spread(Date.parse(row.at), row.low, row.high, row.last);
    for (const row of marks) {
      this.mark(`${row.partition}:${row.offset}`,
        { at: Date.parse(row.timestamp), symbol: row.symbol, price: row.price, score: row.anomaly_score, alert: row.alert_id });
    }
  }

  settle(rows) {
    const { scores, gap } = this;
    const last = rows.reduce((most, row) => Math.max(most, Date.parse(row.at)), 0);
    const began = gap.live === null ? Infinity : Math.floor(gap.live / scores.width);
    const isPast = last >= (began + 1) * scores.width + 3_000;
    for (const row of rows) {
      const at = Date.parse(row.t);
      if (at / scores.width > began - (isPast ? 0 : 1)) continue;
      const place = scores.place(at, true);
      if (place < 0) continue;
      scores.low[place] = scores.last[place] = row.low;
      scores.time[place] = Math.max(Date.parse(row.at), at);
      scores.count[place] = row.n;
      scores.anomalies[place] = row.a;
      scores.sum[place] = row.s;
    }
    this.newest = Math.max(this.newest, last);
    if (isPast) this.gap = null;
    else if (last) gap.from = Math.max(gap.from, last - 20_000);
  }

  /** Counts of the last so many milliseconds. */
  sums(span, end) {
    const { scores } = this;
    const of = { count: 0, anomalies: 0, sum: 0, low: Infinity };
    scores.visit(end - span, end, (place) => {
      of.count += scores.count[place];
      of.anomalies += scores.anomalies[place];
      of.sum += scores.sum[place];
      of.low = Math.min(of.low, scores.low[place]);
    });
    return of;
  }

  /** All that is drawn at this moment; nothing in it changes afterwards. `first` are the symbols with a line of their own. */
  view(first) {
    const end = this.end();
    const from = end - this.window;
    const bases = new Map();
    const lines = [];
    const others = new Map();
    const named = this.symbol ? [this.symbol] : first;
    const most = Math.floor((this.prices.size > named.length ? 0.75 : 1) * MOST.prices / Math.max(named.length, 1));
    for (const [symbol, ring] of this.prices) {
      const of = ring.line(from, end, most);
      if (!of.x.length) continue;
      if (!this.symbol) {
        const base = of.y[0];
        bases.set(symbol, base);
        of.y = of.y.map((value) => (value / base - 1) * 100);
      }
      if (named.includes(symbol)) lines.push({ symbol, ...of });
      else of.x.forEach((at, index) => widen(others, Math.floor(at / ring.width) * ring.width, of.y[index]));
    }
    lines.sort((a, b) => named.indexOf(a.symbol) - named.indexOf(b.symbol));
    const marks = [...this.marks.values()].filter((one) => one.at >= from && one.at <= end).sort((a, b) => a.score - b.score)
      .slice(0, MOST.marks).map((one) => ({ ...one, y: this.height(one, bases) }));
    const band = [...others].sort(([a], [b]) => a - b);
    return {
      from, end, lines, marks, band: band.filter((_, at) => at % Math.ceil(band.length / 110) === 0), newest: this.newest,
      others: this.prices.size - lines.length, scores: this.scores.line(from, end, MOST.scores),
      all: this.sums(this.window, end), recent: this.sums(RATE_MS, end), price: this.symbol ? lines[0]?.y.at(-1) : null,
    };
  }

  /** How high a mark is drawn among the prices. */
  height(mark, bases) {
    const ring = this.prices.get(mark.symbol);
    const place = ring?.place(mark.at) ?? -1;
    const of = mark.price ?? (place >= 0 ? ring.last[place] : null);
    return this.symbol || of === null ? of : (of / bases.get(mark.symbol) - 1) * 100;
  }
}

function widen(spans, at, value) {
  const span = spans.get(at);
  if (!span) spans.set(at, [value, value]);
  else if (value < span[0]) span[0] = value;
  else if (value > span[1]) span[1] = value;
}

function traces(view, symbol, colour) {
  const shift = chartTime(view.end) - view.end;
  const times = (x) => x.map((at) => at + shift);
  const form = symbol ? ",.8~g" : ".3f";
  const unit = symbol ? "" : " %";
  const line = ({ symbol: name, x, y }, at) => ({
    type: "scatter", mode: "lines", name, x: times(x), y, hovertemplate: `${symbol ? "Price" : name} %{y:${form}}${unit}<extra></extra>`,
    line: { color: colour(COLOURS[at]), width: 1.6, dash: at > 2 ? "dot" : "solid" },
  });
  const edge = (at, more) => ({
    type: "scatter", mode: "lines", x: times(view.band.map(([of]) => of)), y: view.band.map(([, span]) => span[at]), hoverinfo: "skip",
    line: { color: colour("grid"), width: 1 }, ...more,
  });
  const dots = (marks, axes, name, look) => axes.map(([of, axis]) => ({
    type: "scatter", mode: "markers", name, yaxis: axis, x: times(marks.map((one) => one.at)), y: marks.map((one) => one[of]),
    customdata: marks.map((one) => one.alert), text: marks.map((one) => one.symbol), marker: look,
    hovertemplate: `${name} of %{text} %{y:${axis === "y" ? form : ".4f"}}${axis === "y" ? unit : ""}<extra></extra>`,
  }));
  const band = view.band.length
    ? [edge(0, {}), edge(1, { fill: "tonexty", fillcolor: `${colour("axis")}40` })] : [];
  return [
    ...band, ...view.lines.map(line),
    { type: "scatter", mode: "lines", name: "score", yaxis: "y2", x: times(view.scores.x), y: view.scores.y,
      hovertemplate: "Lowest score %{y:.4f}<extra></extra>", line: { color: colour("line"), width: 1.2 } },
    ...dots(view.marks.filter((one) => !one.alert), [["y", "y"]], "Anomaly",
      { symbol: "circle-open", size: 7, color: colour("anomaly"), line: { width: 1.6 } }),
    ...dots(view.marks.filter((one) => one.alert), [["y", "y"], ["score", "y2"]], "Alert",
      { symbol: "diamond", size: 10, color: colour("alert"), line: { width: 1, color: colour("mid") } }),
  ].filter((one) => one.x.length);
}

/** What is written around the chart stands beside it in the page: Plotly would measure every text at every draw. */
function layout(view, symbol, isPaused, revision, width, colour) {
  const axis = { automargin: false, ticklabeloverflow: "allow", zeroline: false };
  return {
    margin: { l: 68, r: 12, t: 20, b: 36 }, hovermode: "x", hoversubplots: "axis", dragmode: isPaused ? "zoom" : false,
      uirevision: revision,
    xaxis: { ...axis, type: "date", range: [chartTime(view.from), chartTime(view.end)], anchor: "y2", hoverformat: "%H:%M:%S", tickangle: 0,
      nticks: Math.ceil(width / 120), showspikes: true, spikemode: "across", spikesnap: "cursor", spikethickness: 1, spikedash: "dot",
        spikecolor: colour("axis") },
    yaxis: { ...axis, domain: [0.38, 1], tickformat: symbol ? ",~r" : ".2~f", nticks: 6 },
    yaxis2: { ...axis, domain: [0, 0.3], nticks: 4 },
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, yref: "y2", y0: 0, y1: 0,
      line: { color: colour("anomaly"), width: 1.2, dash: "dash" } }],
  };
}

/** Gives a control the id by which tests know it. */
function named(control, id) {
  const list = control.node.querySelector("select, input");
  if (list) list.id = control.node.htmlFor = id;
  else control.node.id = id;
  return control;
}

/** The list of alerts: {node, change(query), take(event), pause(isPaused), put(alert), age(), end()}. */
function alertList({ onOpen, filters }) {
  const items = new Map();
  let query = {};
  let next = null;
  let asking = new AbortController();
  let settling = 0;
  let isPaused = false;
  const list = h("ol", { class: "live-alerts", id: "live-alerts", tabindex: "-1" });
  const rest = h("div", {});
  const said = h("p", { class: "live-said", id: "live-said", role: "status", "aria-live": "polite" });
  const node = h("div", { class: "live-alerts-frame" }, filters, list, rest, said);

  const isWanted = (one) => (!query.symbol || one.symbol === query.symbol) && !(query.open && one.acknowledged)
    && RANKS.indexOf(one.severity) >= RANKS.indexOf(query.severity ?? "warning");

  const inOrder = () => [...items.values()].sort((a, b) => Date.parse(b.alert.raised_at) - Date.parse(a.alert.raised_at));

  function item(alert) {
    const age = h("span", { class: "hint live-alert-last" }, ago(alert.raised_at));
    const done = [alert.acknowledged && "✓ acknowledged", alert.verdict && words(alert.verdict)].filter(Boolean).join(" · ");
    const content = h("button", { type: "button", class: "live-alert", data: { alert: alert.id }, on: { click: () => onOpen(alert.id) } },
      h("span", { class: "live-alert-line" }, severity(alert.severity), h("strong", {}, alert.symbol), age),
      h("span", { class: "live-alert-line" }, h("span", {}, words(alert.alert_type)), h("span", { class: "hint live-alert-last" },
        `by ${FEATURES[alert.peak.leading_feature]?.name ?? alert.peak.leading_feature}, ${percent(alert.peak.share, 0)}`)),
      h("span", { class: "live-alert-line hint" }, h("span", {}, `Score ${score(alert.peak.anomaly_score)}`),
        h("span", {}, `${number(alert.events)} event${alert.events === 1 ? "" : "s"}`),
          h("span", { class: "live-alert-last" }, done || "open")));
    return { content, age };
  }

  /** Shows the items in their order; those that stay are not moved, so that none loses the focus. */
  function draw() {
    if (isPaused) return;
    const order = inOrder().filter((one) => isWanted(one.alert)).slice(0, MOST_ALERTS);
    order.forEach((one, at) => {
      if (list.children[at] !== one.node) list.insertBefore(one.node, list.children[at] ?? null);
    });
    while (list.children.length > order.length) list.lastChild.remove();
    const nothing = query.symbol || query.severity || query.open ? "No alert fits these filters" : "No alerts yet";
    fill(rest, order.length === 0 && empty(nothing, "An alert is raised by a confirmed anomaly of a rare score."),
      next && order.length < MOST_ALERTS && button("Older alerts", () => load(next), { id: "live-older" }));
  }

  function put(alert, isNew = false) {
    const known = items.get(alert.id) ?? { node: h("li", {}) };
    if (JSON.stringify(known.alert) === JSON.stringify(alert)) return;
    const hadFocus = known.node.contains(document.activeElement);
    Object.assign(known, { alert, ...item(alert) });
    fill(known.node, known.content);
    if (hadFocus) known.content.focus();
    if (isNew) {
      known.node.className = "is-new";
      setTimeout(() => { known.node.className = ""; }, 4_000);
    }
    items.set(alert.id, known);
  }

  async function load(cursor = null) {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    try {
      const page = await get("/alerts", { symbol: query.symbol, severity: query.severity, acknowledged: query.open ? false : null,
        limit: 100, cursor }, { signal });
      for (const alert of page.alerts) put(alert);
      if (cursor || items.size <= 100) next = page.next;
      draw();
    } catch (error) {
      if (error.name !== "AbortError") fill(rest, failure(error, () => load(cursor)));
    }
  }

  /** Takes in an event of an alert as it is told; the list is asked again when it is committed. */
  function take(event) {
    if (query.symbol && event.symbol !== query.symbol) return;
    const before = items.get(event.alert_id)?.alert;
    const isGraver = !before || event.anomaly_score < before.peak.anomaly_score;
    const { symbol, alert_type, severity: rank, raised_at, timestamp, anomaly_score, leading_feature, share } = event;
    const alert = {
      acknowledged: false, verdict: null, ...before, id: event.alert_id, symbol, alert_type, raised_at, last_at: timestamp,
      events: (before?.events ?? 0) + 1, severity: isGraver ? rank : before.severity,
      peak: isGraver ? { anomaly_score, leading_feature, share } : before.peak,
    };
    put(alert, event.is_raising);
    if (event.is_raising && isWanted(alert) && !isPaused) say(said,
      `${words(rank)} alert: ${words(alert_type)} of ${symbol}, score ${score(anomaly_score)}`);
    if (items.size > 2 * MOST_ALERTS) for (const one of inOrder().slice(MOST_ALERTS)) items.delete(one.alert.id);
    draw();
    settling ||= setTimeout(() => { settling = 0; load(); }, 8_000);
  }

  return {
    node, take, load: () => load(),
    put(alert) {
      put(alert);
      draw();
    },
    change(to) {
      query = to;
      items.clear();
      next = null;
      fill(list);
      fill(rest, loading("Loading the alerts", 200));
      load();
    },
    pause(to) {
      isPaused = to;
      draw();
    },
    age() {
      for (const one of items.values()) say(one.age, ago(one.alert.raised_at));
    },
    end() {
      asking.abort();
      clearTimeout(settling);
    },
  };
}

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
  let revision = 0;
  let drawAfter = 0;
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
    ["anomalies", "Anomalies"], ["rate", "Anomaly rate"],
    ["average", "Average score"], ["lowest", "Lowest score"], ["updates", "Updates", "per s"], ["age", "Last event"]]
    .map(([name, label, unit]) => [name, figure(label, { id: `live-${name}`, unit })]));
  const numbers = h("div", { class: "live-numbers" }, h("div", { class: "live-gauge" }, rate.node, expected),
    h("div", { class: "figures live-figures" }, Object.values(figures).map((one) => one.node)));
  const plot = h("div", { class: "live-plot", id: "live-chart" });
  const cover = h("div", { class: "live-cover" }, loading("Loading the history", 400));
  const above = h("span", { class: "hint live-axis" });
  const beneath = h("span", { class: "hint live-axis live-axis-score" }, "Anomaly score");
  const key = h("span", { class: "hint", id: "live-key" });
  const severities = named(choice("Severity", [["", "All"], ["high", "High +"], ["critical", "Critical"]], "",
    (of) => change({ severity: of })), "live-severity");
  const unseen = named(toggle("Unacknowledged", false, (on) => change({ open: on ? 1 : null })), "live-open");
  const alerts = alertList({ onOpen: (alert) => change({ alert }, { replace: false }),
    filters: h("div", { class: "row" }, severities.node, unseen.node) });

  fill(root, h("h1", { class: "live-said" }, "Live feed"),
    h("div", { class: "toolbar" }, symbolList.node, h("div", { class: "field" }, h("span", {}, "Window"), windows.node), pauseButton,
      news, banner),
    h("section", { class: "card", id: "live-now", "aria-label": "Key figures of the window" }, numbers),
    h("div", { class: "grid" },
      card("Price and anomaly score", { id: "live-feed", className: "span-8", actions: key },
        h("div", { class: "live-frame" }, plot, above, beneath, cover)),
      card("Alerts", { className: "span-4" }, alerts.node)));
  const picture = chart(plot, "Prices with anomalies and alerts, and beneath them the anomaly score with its threshold 0");

  const window = () => (Object.hasOwn(WINDOWS, query.window) ? query.window : "15m");
  const symbol = () => (/^[A-Z0-9]+-[A-Z0-9]+$/.test(query.symbol ?? "") ? query.symbol : null);

  /** Begins a window anew: its history is asked for, the stream goes on. */
  function begin() {
    asking.abort();
    asking = new AbortController();
    const [span, width] = WINDOWS[window()];
    const least = symbol() ? width : Math.max(width, (span * symbols.length) / HISTORY_ROWS);
    feed = new Feed(symbol(), span, width, PRICE_WIDTHS.find((one) => one >= least) ?? PRICE_WIDTHS.at(-1));
    feed.gap = { from: 0, live: null };
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
    revision += 1;
    alerts.pause(to);
    if (shown) draw();
    isDirty = true;
  }

  function render() {
    shown = feed.view(symbols.slice(0, COLOURS.length));
    const { all, recent } = shown;
    const share = (of) => (of.count ? of.anomalies / of.count : NaN);
    const normal = model?.loaded ? model.contamination : null;
    figures.price.node.hidden = !feed.symbol;
    figures.symbols.node.hidden = Boolean(feed.symbol);
    figures.price.set(price(shown.price));
    figures.symbols.set(number(feed.prices.size));
    figures.predictions.set(number(all.count));
    figures.anomalies.set(number(all.anomalies));
    figures.rate.set(percent(share(all), 2));
    figures.average.set(all.count ? score(all.sum / all.count) : NONE);
    figures.lowest.set(score(all.low));
    const times = share(recent) / normal;
    rate.set(times / 5, percent(share(recent), 2), !normal || !recent.count ? "idle" : times <= 2 ? "good" : times <= 4 ? "fair" : "bad");
    drawKey(all.anomalies > MOST.marks ? ` (the ${MOST.marks} gravest)` : "");
    draw();
  }

  /** Says what is what in the chart; as elements only where it is something else than before. */
  function drawKey(many) {
    const names = feed.symbol ? [] : shown.lines.map((one) => one.symbol);
    const others = shown.band.length ? `${shown.others} others` : "";
    const is = [many, others, ...names].join();
    if (key.dataset.is === is) return;
    key.dataset.is = is;
    const one = (mark, text, colour) => h("span", { class: "nowrap" },
      h("b", { "aria-hidden": "true", style: { color: `var(--chart-${colour})` } }, mark), ` ${text}`);
    fill(key, names.map((name, at) => one(at > 2 ? "┅" : "━", name, COLOURS[at])), others && one("▒", others, "axis"),
      one("○", `anomaly${many}`, "anomaly"), one("◆", "alert", "alert"), one("┄", "threshold 0", "anomaly"));
  }

  async function draw() {
    const began = performance.now();
    say(above, `${feed.symbol ? `Price (${feed.symbol.split("-")[1]})` : "Change since the window began (%)"}, ${zoneName()}`);
    const [view, of, paused, kept] = [shown, feed.symbol, isPaused, `${revision}`];
    try {
      await picture.draw((colour) => traces(view, of, colour), (colour) => layout(view, of, paused, kept, plot.clientWidth, colour));
    } catch (error) {
      cover.hidden = false;
      fill(cover, failure(error, begin));
      return;
    }
    drawAfter = performance.now() + (performance.now() - began) * (1 / DRAW_SHARE - 1);
    if (plot.on && !plot.dataset.heard) {
      plot.dataset.heard = "yes";
      plot.on("plotly_click", ({ points }) => {
        const alert = points.find((point) => point.customdata)?.customdata;
        if (alert) change({ alert }, { replace: false });
      });
      plot.on("plotly_doubleclick", () => {
        revision += 1;
        draw();
      });
    }
  }

  function tick() {
    if (!feed || !isDirty || document.hidden || performance.now() < drawAfter) return;
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
    if (symbol() && detail.symbol !== symbol()) return;
    pending[1] += detail.is_raising ? 1 : 0;
    feed?.mark(detail.id, { at: Date.parse(detail.timestamp), symbol: detail.symbol, score: detail.anomaly_score, alert: detail.alert_id });
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
    severities.set(RANKS.includes(to.severity) ? to.severity : "");
    unseen.set(Boolean(to.open));
    if (changed("symbol", "severity", "open")) {
      alerts.change({ symbol: symbol(), severity: RANKS.includes(to.severity) ? to.severity : null, open: Boolean(to.open) });
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
    const known = [...new Set([...symbols, ...(/^[A-Z0-9]+-[A-Z0-9]+$/.test(query.symbol ?? "") ? [query.symbol] : [])])].sort();
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
