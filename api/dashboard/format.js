// Numbers, times and names as people read them. Times are ISO 8601 texts of the service, or Dates.

import { prefs } from "./prefs.js";

/** What stands where there is no value. */
export const NONE = "–";

const formats = new Map();

function numberFormat(options) {
  const key = JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.NumberFormat("en-US", options));
  return formats.get(key);
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** 12,345.68, with as many digits behind the point as asked for. */
export function number(value, digits = 0) {
  if (!isNumber(value)) return NONE;
  return numberFormat({ minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value).replace("-", "−");
}

/** 12.3K, 4.56M. */
export function compact(value) {
  if (!isNumber(value)) return NONE;
  return numberFormat({ notation: "compact", maximumSignificantDigits: 3 }).format(value).replace("-", "−");
}

/** A share of 1 as a percentage. */
export function percent(share, digits = 1) {
  return isNumber(share) ? `${number(share * 100, digits)} %` : NONE;
}

/** An anomaly score, with its sign. */
export function score(value) {
  if (!isNumber(value)) return NONE;
  return `${value < 0 ? "−" : "+"}${number(Math.abs(value), 4)}`;
}

/** A price with the digits that its size calls for. */
export function price(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  const digits = size >= 1000 ? 2 : size >= 1 ? 4 : 8;
  return number(value, digits);
}

/** Four significant digits, for values of any size. */
export function significant(value, digits = 4) {
  if (!isNumber(value)) return NONE;
  return numberFormat({ maximumSignificantDigits: digits }).format(value).replace("-", "−");
}

/** 1.2 MiB. */
export function bytes(value) {
  if (!isNumber(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  return `${number(value / 1024 ** unit, unit === 0 ? 0 : 1)} ${units[unit]}`;
}

/** A length of time in seconds: 0.4 ms, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  if (seconds < 1) return `${significant(seconds * 1000, 3)} ms`;
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  const whole = Math.round(seconds);
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => whole >= size);
  return parts
    .slice(first, first + 2)
    .map(([size, unit], at) => [Math.floor((at === 0 ? whole : whole % parts[first][0]) / size), unit])
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

/** A length of time that was measured, in seconds: two significant digits of it. */
export function measured(seconds) {
  return seconds === null ? NONE : duration(Number(seconds.toPrecision(2)));
}

/** How many per second; `unit` says of what, as `events/s`. */
export function perSecond(rate, unit) {
  return `${rate === null ? NONE : rate && rate < 10 ? number(rate, 1) : number(rate)} ${unit}`;
}

/** How long ago a time was, or in how long it is. */
export function ago(time, now = Date.now()) {
  const at = milliseconds(time);
  if (at === null) return NONE;
  const seconds = (now - at) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds >= 0 ? `${duration(Math.floor(seconds))} ago` : `in ${duration(Math.ceil(-seconds))}`;
}

/** Unix milliseconds of a time; null where it is none. */
export function milliseconds(time) {
  if (time === null || time === undefined || time === "") return null;
  const at = time instanceof Date ? time.getTime() : typeof time === "number" ? time : Date.parse(time);
  return Number.isNaN(at) ? null : at;
}

const timeFormats = new Map();

/** A time in the zone that is preferred. `parts`: "time" (default), "date", "both", "minutes", "full" (with milliseconds). */
export function time(value, parts = "time") {
  const at = milliseconds(value);
  if (at === null) return NONE;
  const key = `${parts} ${prefs.zone}`;
  if (!timeFormats.has(key)) {
    const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    const seconds = { ...clock, second: "2-digit" };
    const date = { year: "numeric", month: "2-digit", day: "2-digit" };
    const fields = {
      time: seconds,
      minutes: clock,
      date,
      both: { ...date, ...seconds },
      full: { ...date, ...seconds, fractionalSecondDigits: 3 },
    }[parts];
    // Sweden writes dates as ISO 8601 does.
    timeFormats.set(key, new Intl.DateTimeFormat("sv-SE", { ...fields, ...(prefs.zone === "utc" ? { timeZone: "UTC" } : {}) }));
  }
  return timeFormats.get(key).format(at).replace(",", ".");
}

/** A time with its date and its zone. */
export function moment(value) {
  return milliseconds(value) === null ? NONE : `${time(value, "both")} ${zoneName()}`;
}

/** The name of the zone in which times are shown. */
export function zoneName() {
  if (prefs.zone === "utc") return "UTC";
  return new Intl.DateTimeFormat("en-US", { timeZoneName: "short" }).formatToParts(new Date()).find((part) => part.type === "timeZoneName").value;
}

/** A time as charts want it: their axes know no zones, so that the zone is taken into the number. */
export function chartTime(value) {
  const at = milliseconds(value);
  return prefs.zone === "utc" ? at : at - new Date(at).getTimezoneOffset() * 60_000;
}

/** What features are called. */
export const FEATURES = {
  z_score_price: { name: "Price", about: "z-score of the price within 60 s", unit: "σ" },
  z_score_log_return: { name: "Log-return", about: "z-score of the log-return within 60 s", unit: "σ" },
  z_score_volume: { name: "Volume", about: "z-score of the volume within 60 s", unit: "σ" },
  rolling_price_std: { name: "Price deviation", about: "deviation of the price within 60 s, relative to its mean", unit: "" },
  rolling_volume_std: { name: "Volume deviation", about: "deviation of the volume within 60 s", unit: "" },
};

/** The names of the features, in the order of the model. */
export const FEATURE_NAMES = Object.keys(FEATURES);

/** PRICE_SPIKE as "Price spike". */
export function words(name) {
  const text = String(name ?? "").replaceAll("_", " ").toLowerCase();
  return text.charAt(0).toUpperCase() + text.slice(1);
}
