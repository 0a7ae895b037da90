// What the live page knows of a window of time: counted from the stream, read from the lake, and merged.

import { get, sql } from "./api.js";
import { decimated } from "./charts.js";
import { milliseconds } from "./format.js";

/** Windows: how long they are, and the stretches of time that they are counted in; milliseconds. */
export const WINDOWS = { "5m": [300_000, 500], "15m": [900_000, 1_000], "1h": [3_600_000, 4_000], "4h": [14_400_000, 16_000] };

/** Points of the chart: prices, scores, marks. Marks are elements, so that many of them are slow. */
export const MOST = { prices: 480, scores: 360, marks: 40 };

/** Stretches of time that prices of the lake are asked for in, and how many rows the answer may have. */
const PRICE_WIDTHS = [500, 1_000, 2_000, 4_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000];
const HISTORY_ROWS = 6_000;
const RATE_MS = 300_000;

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

  /** The newest value of a span of time; null where there is none. */
  newest(from, to) {
    let newest = null;
    this.visit(from, to, (place) => {
      if (this.time[place] !== -Infinity) newest = this.last[place];
    });
    return newest;
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
export class Feed {
  /** Of a symbol, or of all `symbols` (so many) where it is null; `name` is that of a window. */
  constructor(symbol, name, symbols) {
    const [window, width] = WINDOWS[name];
    const least = symbol ? width : Math.max(width, (window * symbols) / HISTORY_ROWS);
    const priceWidth = PRICE_WIDTHS.find((one) => one >= least) ?? PRICE_WIDTHS.at(-1);
    Object.assign(this, { symbol, window, priceWidth, newest: 0, arrived: 0, gap: { from: 0, live: null } });
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
        LEFT JOIN (SELECT * FROM alerts WHERE severity <> 'notice' AND ${where}) a ON a.partition = p.partition AND a."offset" = p."offset"`, { signal }),
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

  /** The figures of this moment: of the window, of its last minutes, and the price of the symbol. */
  figures() {
    const end = this.end();
    const price = this.symbol ? this.prices.get(this.symbol)?.newest(end - this.window, end) ?? null : null;
    return { all: this.sums(this.window, end), recent: this.sums(RATE_MS, end), price };
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
    const inside = [...this.marks.values()].filter((one) => one.at >= from && one.at <= end);
    const marks = inside.sort((a, b) => a.score - b.score).slice(0, MOST.marks).map((one) => ({ ...one, y: this.height(one, bases) }));
    const band = [...others].sort(([a], [b]) => a - b);
    return {
      from, end, lines, marks, areMore: inside.length > marks.length, band: band.filter((_, at) => at % Math.ceil(band.length / 110) === 0),
      others: this.prices.size - lines.length, scores: this.scores.line(from, end, MOST.scores),
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
