// The rows of the analytics page: the table, the dialog about one of them, and files of all that match.

import { change } from "./address.js";
import { answer, part, rowsAddress, source } from "./analytics-parts.js";
import { ask, key, post, save } from "./api.js";
import { button, dialog, empty, failure, loading, shares, toast, toggle } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { FEATURE_NAMES, FEATURES, number, score, time, words, zoneName } from "./format.js";
import { table } from "./table.js";

const PAGE = 500;
const MOST_SORTED = 10_000;
const MOST_EXPORTED = 1_000_000;

function verdict(isAnomaly) {
  return isAnomaly ? h("span", { class: "anomalous" }, "■ anomaly") : h("span", { class: "soft" }, "usual");
}

function label(row) {
  if (row.label_is_anomaly === null) return "–";
  return row.label_is_anomaly ? words(row.label_anomaly_type ?? "anomaly") : h("span", { class: "soft" }, "usual");
}

/** What a row is called: where its event is in the log. */
const idOf = (row) => `${row.partition}:${row.offset}`;

const COLUMNS = [
  { key: "timestamp", label: "Time", width: "184px", cell: (row) => time(row.timestamp, "full") },
  { key: "symbol", label: "Symbol", width: "96px", cell: (row) => row.symbol },
  { key: "anomaly_score", label: "Score", width: "72px", end: true, cell: (row) => score(row.anomaly_score) },
  { key: "is_anomaly", label: "Verdict", width: "88px", cell: (row) => verdict(row.is_anomaly) },
  ...FEATURE_NAMES.map((name) => ({
    key: name, label: `${FEATURES[name].name}${FEATURES[name].unit && ` (${FEATURES[name].unit})`}`, end: true, width: "minmax(120px, 1fr)",
    cell: (row) => number(row[name], name === "rolling_price_std" ? 6 : 3),
  })),
  { key: "model_version", label: "Model", width: "72px", end: true, cell: (row) => number(row.model_version) },
  { key: "label_anomaly_type", label: "Label", width: "128px", cell: label },
  { key: "offset", label: "Partition:offset", width: "128px", end: true, cell: idOf },
].map((column) => ({ ...column, sortable: true }));

const ORDERS = { offset: (way) => `partition ${way}, "offset" ${way}` };

/** Which column rows are sorted by, of the address: `-anomaly_score` is descending. */
function sorting(text) {
  const name = (text ?? "").replace(/^-/, "");
  if (!COLUMNS.some((column) => column.key === name)) return { key: "timestamp", descending: true };
  return { key: name, descending: text.startsWith("-") };
}

/** The rows that match, newest first page by page, or the first by another column. */
export function rowsPart() {
  const place = h("div", {});
  const note = h("p", { class: "hint analytics-note", role: "status" });
  const again = button("Try again", () => more(), { id: "analytics-more" });
  const exporting = exports();
  const choosers = COLUMNS.map((column) => toggle(column.label, true, () => {
    const chosen = COLUMNS.filter((_, at) => choosers[at].node.querySelector("input").checked).map((one) => one.key);
    change({ columns: chosen.length === COLUMNS.length ? null : chosen.join(",") });
  }));
  const chooser = h("details", { class: "analytics-columns", id: "analytics-columns", on: { keydown: (event) => {
    if (event.key === "Escape") chooser.open = false;
  } } }, h("summary", { class: "button" }, "Columns"),
    h("div", { class: "analytics-columns-list" }, choosers.map((one) => one.node)));
  const closeChooser = (event) => !chooser.contains(event.target) && (chooser.open = false);
  document.addEventListener("click", closeChooser);
  const self = part("Predictions", h("div", {}, place, h("div", { class: "row" }, note, again)),
    { id: "analytics-rows-card", actions: [chooser, exporting.node], span: "span-12", height: 528 });
  again.hidden = true;

  let view = null;
  let signal = null;
  let replaced = new AbortController();
  let rows = [];
  let next = null;
  let isFetching = false;
  let count = null;
  let sort = sorting();
  let columns = "";
  let grid = null;

  const isPaged = () => sort.key === "timestamp" && sort.descending;

  function build() {
    const wanted = columns.split(",");
    const some = COLUMNS.filter((column) => wanted.includes(column.key));
    const zoned = (column) => (column.key === "timestamp" ? { ...column, label: `Time, ${zoneName()}` } : column);
    const shown = (some.length ? some : COLUMNS).map(zoned);
    COLUMNS.forEach((column, at) => choosers[at].set(shown.some((one) => one.key === column.key)));
    grid = table({ id: "analytics-rows", label: "Predictions", columns: shown, height: 480,
      onOpen: (row) => change({ row: idOf(row) }), onEnd: more,
      mark: (row) => (row.is_anomaly ? "is-anomaly" : null),
      onSort: (name, descending) => change({ sort: name === "timestamp" && descending ? null : `${descending ? "-" : ""}${name}` }) });
    grid.sorted(sort.key, sort.descending);
    fill(place, grid.node);
  }

  function tell() {
    const of = count === null ? "" : ` of ${number(count)}`;
    const fetched = `${number(rows.length)}${of} rows`;
    const column = COLUMNS.find((one) => one.key === sort.key).label;
    if (isPaged()) say(note, `${fetched} fetched, newest first${next ? "; more come when you scroll to the end" : ""}`);
    else say(note, `${count > rows.length ? "The first " : ""}${fetched} by ${column}, ${sort.descending ? "highest" : "lowest"} first`);
  }

  async function page(cursor) {
    const of = signal;
    const found = await (await ask(rowsAddress(view, { limit: PAGE, cursor }), { signal: of })).json();
    of.throwIfAborted();
    rows = cursor ? rows.concat(found.rows) : found.rows;
    next = found.next ?? null;
  }

  /** Fetches what follows, when the last row is seen. */
  async function more() {
    if (isFetching || !next || !isPaged()) return;
    isFetching = true;
    const of = signal;
    again.hidden = true;
    try {
      await page(next);
      isFetching = false;
      grid.set(rows);
      tell();
    } catch (error) {
      if (of.aborted) return;
      isFetching = false;
      say(note, `More rows could not be fetched: ${error.message}`);
      again.hidden = false;
    }
  }

  async function sortedRows() {
    const way = sort.descending ? "DESC" : "ASC";
    const order = ORDERS[sort.key]?.(way) ?? `${sort.key} ${way} NULLS LAST, timestamp DESC, partition, "offset"`;
    ({ rows } = await answer(`SELECT * ${source(view)} ORDER BY ${order} LIMIT ${MOST_SORTED}`, signal));
    next = null;
  }

  build();
  return {
    ...self,
    busy() {
      self.busy();
      exporting.pause();
    },
    async load(of, until) {
      replaced.abort();
      const mine = new AbortController();
      replaced = mine;
      [view, signal, isFetching] = [of, AbortSignal.any([until, mine.signal]), false];
      again.hidden = true;
      exporting.view(of, count);
      try {
        await (isPaged() ? page(null) : sortedRows());
      } catch (error) {
        // Another sorting was chosen meanwhile: its rows are on their way.
        if (mine.signal.aborted) return;
        throw error;
      }
      if (rows.length === 0) {
        self.none();
        return;
      }
      self.show();
      grid.node.firstChild.scrollTop = 0;
      grid.set(rows);
      tell();
    },
    /** How many rows match; null while nobody knows. */
    count(of) {
      count = of;
      if (view) exporting.view(view, count);
      if (rows.length) tell();
    },
    /** Takes the sorting and the columns of the address; whether rows have to be fetched for it. */
    settings(query) {
      const wanted = sorting(query.sort);
      const isOther = wanted.key !== sort.key || wanted.descending !== sort.descending;
      sort = wanted;
      if ((query.columns ?? "") !== columns) {
        columns = query.columns ?? "";
        build();
        if (!isOther) grid.set(rows);
      }
      grid.sorted(sort.key, sort.descending);
      return isOther;
    },
    /** The row with this id, where it has been fetched. */
    find: (id) => rows.find((row) => idOf(row) === id),
    zone() {
      build();
      grid.set(rows);
    },
    end() {
      document.removeEventListener("click", closeChooser);
      exporting.end();
    },
  };
}

/** Files of all rows that match: {node, view(view, count), pause(), end()}. */
function exports() {
  let view = null;
  let count = null;
  let running = null;
  const csv = button("Export CSV", () => exported("csv"), { id: "analytics-export-csv", disabled: true });
  const parquet = button("Export Parquet", () => exported("parquet"), { id: "analytics-export-parquet", disabled: true });
  const curl = button("Copy as curl", copy, { id: "analytics-export-curl", disabled: true, title: "The request for these rows as CSV" });
  const progress = h("span", { class: "hint", role: "status", id: "analytics-export-progress" });

  function name(format) {
    const at = (iso) => iso.replace(/\.\d+/, "").replace(/[-:]/g, "");
    const range = [at(view.from ?? view.oldest), at(view.to ?? view.newest)];
    const of = ["predictions", view.symbol ?? "all", ...range, view.anomalies && "anomalies"];
    return `${of.filter(Boolean).join("-")}-v${view.version}.${format}`;
  }

  /** A page of a CSV file without its header. */
  async function headless(blob) {
    return blob.slice((await blob.slice(0, 4096).text()).indexOf("\n") + 1);
  }

  async function exported(format) {
    running = new AbortController();
    const { signal } = running;
    const fileName = name(format);
    const of = view;
    const total = count;
    csv.disabled = parquet.disabled = true;
    try {
      const pieces = [];
      let cursor = null;
      do {
        say(progress, `Fetching${pieces.length ? ` page ${pieces.length + 1}` : ""}…`);
        const response = await ask(rowsAddress(of, { limit: MOST_EXPORTED, format, cursor }), { signal });
        const blob = await response.blob();
        pieces.push(pieces.length ? await headless(blob) : blob);
        cursor = response.headers.get("X-Next-Cursor");
      } while (cursor && format === "csv");
      save(new Blob(pieces), fileName);
      const newest = `the newest ${number(MOST_EXPORTED)} of ${number(total)} rows`;
      if (cursor) toast(`${fileName} has ${newest}: one Parquet answer has no more. A narrower range fits.`, "bad");
      else toast(`${fileName}: ${total === null ? "all" : number(total)} rows of version ${of.version}`);
    } catch (error) {
      if (!signal.aborted) toast(`No file: ${error.message}`, "bad");
    }
    csv.disabled = parquet.disabled = false;
    say(progress, "");
  }

  async function copy() {
    const address = new URL(rowsAddress(view, { limit: MOST_EXPORTED, format: "csv" }), location.href);
    const authorized = key() ? ' -H "Authorization: Bearer $SENTINEL_API_KEY"' : "";
    const command = `curl -sSf${authorized} -o '${name("csv")}' '${address}'`;
    try {
      await navigator.clipboard.writeText(command);
      toast(count > MOST_EXPORTED ? `Copied: the newest ${number(MOST_EXPORTED)} rows; X-Next-Cursor leads on` : "Copied");
    } catch {
      // Only pages of a secure origin may write there.
      dialog("Copy as curl", h("pre", { class: "analytics-command", tabindex: "0" }, command));
    }
  }

  return {
    node: [progress, csv, parquet, curl],
    view(of, matching) {
      [view, count] = [of, matching];
      curl.disabled = false;
      if (progress.textContent === "") csv.disabled = parquet.disabled = false;
    },
    pause() {
      csv.disabled = parquet.disabled = curl.disabled = true;
    },
    end: () => running?.abort(),
  };
}

/** Opens the dialog about a row: {close(), zone()}. `find()` resolves to the row; `onClose` hears that it was closed. */
export function rowDialog(id, version, find, onClose) {
  const ending = new AbortController();
  const facts = h("div", {}, loading("Fetching the row", 320));
  const why = h("div", { class: "stack" });
  const opened = dialog(`Prediction ${id}`, h("div", { class: "stack", id: "analytics-row" }, facts, why), { side: true, onClose: () => {
    ending.abort();
    onClose();
  } });
  let row = null;

  function draw() {
    const shown = ([name, value]) => {
      if (value === null) return "–";
      if (name === "timestamp" || name === "ingest_time") return `${time(value, "full")} ${zoneName()}`;
      if (name === "is_anomaly") return verdict(value);
      return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
    };
    fill(facts, h("table", { class: "plain pairs" }, h("tbody", {}, Object.entries(row).map((field) =>
      h("tr", {}, h("th", { scope: "row", title: field[0] }, FEATURES[field[0]]?.name ?? words(field[0])),
        h("td", {}, shown(field)))))));
  }

  async function explain() {
    fill(why, loading("Asking the model", 240));
    try {
      const vector = Object.fromEntries(["symbol", ...FEATURE_NAMES].map((name) => [name, row[name]]));
      const told = await post("/explain", vector, { signal: ending.signal });
      const by = told.model_version === row.model_version ? "the same one" : `version ${row.model_version}`;
      fill(why, h("h3", {}, "Explanation"),
        h("p", { class: "hint" }, `By model version ${told.model_version}, the current one; ${by} scored this row. `,
          `Its score now: ${score(told.anomaly_score)} (${told.is_anomaly ? "anomaly" : "usual"}); `,
          `below ${score(told.alert_threshold)} it alerts.`),
        h("div", { class: "scroll-x", tabindex: "0", role: "group", "aria-label": "Shares of the features" }, shares(told.features)),
        h("p", { class: "hint" }, `On average ${number(told.path.mean_depth, 1)} splits set the row apart, `,
          `${number(told.path.training_depth, 1)} a row of the training. Fewer mean more unusual.`));
    } catch (error) {
      if (!ending.signal.aborted) fill(why, failure(error, explain));
    }
  }

  async function load() {
    try {
      row = await find(ending.signal);
      if (ending.signal.aborted) return;
      if (!row) fill(facts, empty("There is no such row",
        `Version ${version} of the table has no prediction for partition and offset ${id}.`));
      else {
        draw();
        await explain();
      }
    } catch (error) {
      if (!ending.signal.aborted) fill(facts, failure(error, load));
    }
  }
  load();
  return { close: opened.close, zone: () => row && draw() };
}
