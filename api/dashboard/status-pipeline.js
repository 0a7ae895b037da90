// The drawing of the status page: what flows through the parts, from the source to this page.

import { link } from "./address.js";
import { connection } from "./app.js";
import { showState } from "./controls.js";
import { fill, h, say, svg } from "./dom.js";
import { ago, bytes, measured, number, perSecond, words } from "./format.js";
import { APPENDED, COMMITS, LATENCY, LONG_MS, PREDICTIONS, REQUESTS, SHORT_MS } from "./metrics.js";

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

/** How many events were logged; of this process only, where nothing else is known. */
export function logged(seen) {
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
    return [perSecond(rate, "rows/s"), `commit ${measured(looks.mean(COMMITS))}`, rate > 0];
  }],
  ["tables", "training", ({ model }) =>
    (model ? [`${number(model.model.inputs.rows)} rows`, "learnt from", true] : ["", "", false])],
  ["training", "registry", (seen) => [version(seen), seen.model ? ago(seen.model.model.created) : "", Boolean(seen.model)]],
  ["registry", "stream", (seen) => [version(seen), seen.model ? "judges" : "", Boolean(seen.model)]],
  ["registry", "api", (seen) => [version(seen), seen.model ? "for /predict" : "", Boolean(seen.model)]],
  ["stream", "api", ({ looks }) => {
    const rate = looks.rate(PREDICTIONS);
    const [half, most] = [looks.quantile(LATENCY, 0.5), looks.quantile(LATENCY, 0.99)];
    return [perSecond(rate, "predictions/s"), `p50 ${measured(half)}, p99 ${measured(most)}`, rate > 0];
  }],
  ["api", "dashboard", ({ looks }) => {
    const readers = looks.sum("sentinel_stream_readers");
    const asked = perSecond(looks.rate(REQUESTS), "requests/s");
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

/** The drawing: {node, show(seen), end()}. `seen` is what the page has seen of the service. */
export function pipeline() {
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
