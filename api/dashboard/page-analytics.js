// The page "Analytics": predictions of the past under filters, every part of it at one and the same version of the table.

import { change } from "./address.js";
import { answer, breakdown, checked, correlation, distribution, RANGES, trend } from "./analytics-parts.js";
import { rowDialog, rowsPart } from "./analytics-rows.js";
import { get } from "./api.js";
import { button, choice, empty, failure, field, named, select, toggle } from "./controls.js";
import { fill, h } from "./dom.js";
import { chartTime, milliseconds, moment, time, words, zoneName } from "./format.js";
import { prefs } from "./prefs.js";

/** Settings whose change asks for other rows; the others only change how rows are shown. */
const FILTERS = ["symbol", "from", "to", "range", "anomalies", "model", "version", "as_of"];
const VERSIONS_LISTED = 200;
/** The service answers few at a time; others want to be answered too. */
const AT_ONCE = 2;

/** A field for a time in the zone that is preferred. `onTime` hears ISO 8601, or null. */
function timeField(label, id, onTime) {
  const zone = h("span", { "data-zone": true }, zoneName());
  const instant = (text) => milliseconds(text && (prefs.zone === "utc" ? `${text}Z` : new Date(text)));
  const control = named(field([label, " ", zone], { type: "datetime-local", onChange(text) {
    const at = instant(text);
    // A year that is still being typed is one of long ago.
    if (at === null || at > 0) onTime(at && new Date(at).toISOString().replace(".000", ""));
  } }), id);
  control.input.step = "1";
  return { ...control, set(iso) {
    // The same time set again would take away what is being typed.
    if (instant(control.value()) !== milliseconds(iso)) control.set(iso ? new Date(chartTime(iso)).toISOString().slice(0, 19) : "");
  } };
}

/** The controls above the parts: {node, show(settings), lists({symbols, models, commits})}. */
function toolbar() {
  let asksTime = false;
  let lists = { symbols: [], models: [], commits: [] };
  let settings = null;
  const symbol = named(select("Symbol", [], "", (value) => change({ symbol: value })), "analytics-symbol");
  const range = named(choice("Time range", RANGES, "", (value) => change({ range: value, from: null, to: null })), "analytics-range");
  const from = timeField("From,", "analytics-from", (value) => change({ from: value, range: null }));
  const to = timeField("Before,", "analytics-to", (value) => change({ to: value, range: null }));
  const anomalies = named(toggle("Anomalies only", false, (on) => change({ anomalies: on ? 1 : null })), "analytics-anomalies");
  const model = named(select("Model version", [], "", (value) => change({ model: value })), "analytics-model");
  const version = named(select("Table as of", [], "", chooseVersion), "analytics-version");
  const asOf = timeField("As of,", "analytics-as-of", (value) => change({ as_of: value, version: null }));
  const all = [...FILTERS, "sort", "columns", "scale", "row"];
  const reset = button("Reset", () => change(Object.fromEntries(all.map((name) => [name, null]))),
    { id: "analytics-reset", title: "All filters, sorting and columns as they were at first" });

  function chooseVersion(value) {
    asksTime = value === "time";
    asOf.node.hidden = !asksTime;
    if (asksTime) asOf.input.focus();
    else change({ version: value, as_of: null });
  }

  /** Options, with one that is chosen and not listed. */
  function offer(control, options, chosen, text = String) {
    const isListed = chosen === null || options.some(([value]) => value === String(chosen));
    control.options(isListed ? options : [...options, [String(chosen), text(chosen)]]);
    control.set(chosen === null ? "" : String(chosen));
  }

  function draw() {
    offer(symbol, [["", "All symbols"], ...lists.symbols.map((name) => [name, name])], settings.symbol);
    const called = (one) => `Version ${one}`;
    offer(model, [["", "All models"], ...lists.models.map((one) => [String(one), called(one)])], settings.model, called);
    const commitText = (one) => `${one.version} · ${time(one.time, "both")} · ${words(one.operation)}`;
    const commits = lists.commits.map((one) => [String(one.version), commitText(one)]);
    offer(version, [["", "Now"], ["time", `At a time (${zoneName()}) …`], ...commits],
      settings.asOf || asksTime ? "time" : settings.version, called);
  }

  return {
    node: h("div", { class: "toolbar", role: "group", "aria-label": "Filters", id: "analytics-toolbar" }, symbol.node,
      h("div", { class: "field" }, h("span", {}, "Time range"), range.node), from.node, to.node,
      anomalies.node, model.node, version.node, asOf.node, h("div", { class: "toolbar-end" }, reset)),
    show(of) {
      settings = of;
      asksTime = Boolean(of.asOf);
      range.set(of.range ?? "");
      from.set(of.from);
      to.set(of.to);
      anomalies.set(of.anomalies);
      asOf.node.hidden = !asksTime;
      asOf.set(of.asOf);
      draw();
    },
    lists(of) {
      lists = { ...lists, ...of };
      draw();
    },
  };
}

/** Shows the page. */
export function mount(root, query) {
  let settings = query;
  let view = null;
  let refreshed = null;
  let commit = null;
  let running = new AbortController();
  let opened = null;

  const bar = toolbar();
  const told = h("span", { class: "row", role: "status" });
  const toNow = button("Back to now", () => change({ version: null, as_of: null }), { id: "analytics-now", kind: "primary" });
  const keep = button("Keep this version", () => change({ version: view.version }),
    { id: "analytics-keep", title: "The address then names it: who opens it sees the same rows" });
  const mark = h("div", { class: "analytics-mark", id: "analytics-mark" }, told,
    h("span", { class: "card-actions" }, toNow, keep, button("Refresh", () => load(), { id: "analytics-refresh" })));
  toNow.hidden = keep.hidden = true;
  const trouble = h("div", { hidden: true });
  const bySymbol = breakdown({ onSymbol: (symbol) => change({ symbol }), onCount: (count) => rows.count(count) });
  const together = correlation();
  const overTime = trend();
  const spread = distribution({ onScale: (scale) => change({ scale: scale === "log" ? null : scale }) });
  const rows = rowsPart();
  const parts = [bySymbol, rows, overTime, together, spread];
  const grid = h("div", { class: "grid analytics-grid" }, [bySymbol, together, overTime, spread, rows].map((one) => one.node));
  fill(root, h("h1", { class: "analytics-title" }, "Analytics"), bar.node, mark, trouble, grid);

  /** Instead of the parts: why there are none. */
  function instead(node) {
    grid.hidden = Boolean(node);
    trouble.hidden = !node;
    fill(trouble, node && h("div", { class: "card" }, node));
    if (!node) return;
    fill(told);
    keep.hidden = true;
    toNow.hidden = !settings.version && !settings.as_of;
    mark.classList.toggle("is-past", !toNow.hidden);
  }

  function drawMark() {
    const isPast = view.isPast;
    const at = commit ? `, ${moment(commit)}` : "";
    mark.classList.toggle("is-past", isPast);
    const until = view.to ? `before ${time(view.to, "both")}` : `to ${time(view.newest, "both")}`;
    toNow.hidden = !isPast;
    keep.hidden = isPast;
    fill(told,
      isPast ? [h("span", { class: "badge" }, "◷ Past"), h("strong", {}, `As of version ${view.version}${at}`)]
        : h("span", {}, h("strong", {}, `predictions version ${view.version}`), `, refreshed ${time(refreshed)} ${zoneName()}`),
      h("span", { class: "soft" }, `Events from ${time(view.from ?? view.oldest, "both")} ${until} ${zoneName()}`));
  }

  /** The version that all parts are to show, and what its rows are of. */
  async function pinned(asked, signal) {
    const at = asked.version !== null ? ` VERSION AS OF ${asked.version}` : asked.asOf ? ` TIMESTAMP AS OF '${asked.asOf}'` : "";
    const { rows: groups, version } = await answer(
      `SELECT symbol, model_version, min(timestamp) AS oldest, max(timestamp) AS newest FROM predictions${at} GROUP BY 1, 2`, signal);
    const sorted = (of) => [...new Set(of)].sort((a, b) => (a < b ? -1 : 1));
    bar.lists({ symbols: sorted(groups.map((one) => one.symbol)), models: sorted(groups.map((one) => one.model_version)) });
    const oldest = sorted(groups.map((one) => one.oldest))[0];
    const newest = sorted(groups.map((one) => one.newest)).at(-1);
    const seconds = RANGES.find(([name]) => name === asked.range)?.[2];
    // A range by name ends at the newest event: markets that are replayed are not of today.
    const from = seconds && newest ? new Date(milliseconds(newest) - seconds * 1000).toISOString() : asked.from;
    return { ...asked, from, oldest, newest, version, isPast: asked.version !== null || asked.asOf !== null };
  }

  async function commits(of, signal) {
    const { commits: list } = await get("/tables/predictions/history", { limit: VERSIONS_LISTED }, { signal });
    bar.lists({ commits: list });
    let at = list.find((one) => one.version === of.version)?.time;
    at ??= (await answer(`SELECT commit_time FROM history('predictions') WHERE version = ${of.version}`, signal)).rows[0]?.commit_time;
    if (signal.aborted) return;
    commit = at;
    drawMark();
  }

  async function loadPart(one, signal) {
    one.busy();
    try {
      await one.load(view, signal);
    } catch (error) {
      if (!signal.aborted) one.fail(error, () => loadPart(one, signal));
    }
  }

  /** Fetches everything anew, at the version that is newest or asked for. */
  async function load() {
    running.abort();
    running = new AbortController();
    const { signal } = running;
    const asked = checked(settings);
    bar.show(asked);
    if (asked.wrong.length) {
      instead(empty("This address cannot be meant", asked.wrong.join("; ")));
      return;
    }
    for (const one of parts) one.busy();
    try {
      const found = await pinned(asked, signal);
      refreshed = Date.now();
      commit = null;
      view = found;
    } catch (error) {
      if (!signal.aborted) instead(failure(error, load));
      return;
    }
    if (!view.newest) {
      instead(empty("No predictions yet", `Version ${view.version} of the table has none. They come with the first model.`));
      return;
    }
    instead(null);
    drawMark();
    rows.count(null);
    openRow();
    // Without the list of versions the page is whole but for times of versions.
    const listing = commits(view, signal).catch(() => {});
    const queue = [...parts];
    const work = async () => {
      for (let one = queue.shift(); one && !signal.aborted; one = queue.shift()) await loadPart(one, signal);
    };
    await Promise.all([listing, ...Array.from({ length: AT_ONCE }, work)]);
  }

  /** Opens the row that the address names, or closes it. */
  function openRow() {
    const id = /^\d{1,9}:\d{1,18}$/.test(settings.row ?? "") ? settings.row : null;
    if (opened?.id === id) return;
    const before = opened;
    opened = null;
    before?.close();
    if (!id || !view) return;
    const [partition, offset] = id.split(":");
    const at = view.version;
    const statement = `SELECT * FROM predictions VERSION AS OF ${at} WHERE partition = ${partition} AND "offset" = ${offset}`;
    const find = async (signal) => rows.find(id) ?? (await answer(statement, signal)).rows[0];
    const mine = { id };
    opened = mine;
    Object.assign(mine, rowDialog(id, at, find, () => {
      if (opened !== mine) return;
      opened = null;
      change({ row: null });
    }));
  }

  rows.settings(query);
  spread.scale(query.scale);
  load();

  return {
    update(to) {
      const before = settings;
      settings = to;
      spread.scale(to.scale);
      const isResorted = rows.settings(to);
      if (FILTERS.some((name) => (before[name] ?? "") !== (to[name] ?? ""))) load();
      else if (isResorted && view) loadPart(rows, running.signal);
      openRow();
    },
    end() {
      running.abort();
      const last = opened;
      opened = null;
      last?.close();
      for (const one of parts) one.end?.();
    },
    zone() {
      bar.show(checked(settings));
      if (view?.newest) drawMark();
      for (const one of parts) one.zone?.();
      opened?.zone();
    },
  };
}
