// What a process counts of itself, as /metrics tells it, and how fast it counts on.

/** Rates are those of the last 10 s; what comes in commits, and latencies, of the last minute. */
export const SHORT_MS = 10_000;
export const LONG_MS = 60_000;

/** Names of series. */
export const APPENDED = "sentinel_events_logged_total";
export const COMMITS = "sentinel_commit_duration_seconds";
export const LATENCY = "sentinel_event_to_prediction_seconds";
export const PREDICTIONS = "sentinel_predictions_total";
export const REQUESTS = "sentinel_http_requests_total";
export const TICKS = "sentinel_schedule_tick_duration_seconds";

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
export class Looks {
  list = [];

  /** Takes in what /metrics says now. */
  add(text) {
    const look = { at: Date.now(), series: parsed(text) };
    // Counters that fell are those of another process: what was seen before says nothing about it.
    if (this.list.length && this.sum(APPENDED) > this.sum(APPENDED, "", look)) this.list = [];
    this.list = [...this.list.filter((one) => look.at - one.at <= LONG_MS + 2_000), look];
  }

  /** The sum of the series of a name whose labels have a part; null where there is none. */
  sum(name, part = "", look = this.list.at(-1)) {
    const found = look?.series.get(name)?.filter(([labels]) => labels.includes(part));
    return found ? found.reduce((sum, [, value]) => sum + value, 0) : null;
  }

  /** The greatest value of the series of a name; null where there is none. */
  greatest(name) {
    const values = this.list.at(-1)?.series.get(name)?.map(([, value]) => value) ?? [];
    return values.length ? Math.max(...values) : null;
  }

  /** What a label says in the first series of a name; null where there is none. */
  label(name, label) {
    return new RegExp(`${label}="([^"]*)"`).exec(this.list.at(-1)?.series.get(name)?.[0][0] ?? "")?.[1] ?? null;
  }

  /** The oldest look of the last so many milliseconds, besides the newest. */
  before(within) {
    const newest = this.list.at(-1);
    return this.list.find((look) => look !== newest && newest.at - look.at <= within + 1_000);
  }

  /** What was added in the last so many milliseconds; null before two looks. */
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
