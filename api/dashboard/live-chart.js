// The chart of the live page: prices with anomalies and alerts, and beneath them the anomaly score.

import { chart } from "./charts.js";
import { fill, h, say } from "./dom.js";
import { chartTime, zoneName } from "./format.js";
import { MOST } from "./live-series.js";

/** Colours of the lines that symbols have of their own. */
const COLOURS = ["line", "second", "fourth", "third", "fifth", "sixth"];

/** How many have one where there are more symbols than colours: each line makes every draw longer. */
const FEW = 3;

/** Room of the axes beside both plots, so that one time is above the other; pixels. */
const LEFT = 68;

/** A double click is answered here, for both plots. */
const ZOOM = { doubleClick: false };

/** Part of the time that drawing may take: a slow machine draws more rarely. */
const DRAW_SHARE = 0.4;

/** What is newer by less than a pixel is not drawn, for so long at most. */
const REST_MS = 1_000;

/** Those of the symbols that have a line of their own; the others are a band. */
export const lined = (symbols) => symbols.slice(0, symbols.length > COLOURS.length ? FEW : COLOURS.length);

/** Marks as points, as high as their `of`. */
const dots = (marks, times, of, name, form, look) => ({
  type: "scatter", mode: "markers", name, x: times(marks.map((one) => one.at)), y: marks.map((one) => one[of]), marker: look,
  customdata: marks.map((one) => one.alert), text: marks.map((one) => one.symbol),
  hovertemplate: `${name} of %{text} ${form}<extra></extra>`,
});

const alertDots = (view, times, of, form, colour) => dots(view.marks.filter((one) => one.alert), times, of, "Alert", form,
  { symbol: "diamond", size: 10, color: colour("alert"), line: { width: 1, color: colour("mid") } });

function priceTraces(view, times, symbol, colour) {
  const form = symbol ? "%{y:,.8~g}" : "%{y:.3f} %";
  const line = ({ symbol: name, x, y }, at) => ({
    type: "scatter", mode: "lines", name, x: times(x), y, hovertemplate: `${symbol ? "Price" : name} ${form}<extra></extra>`,
    line: { color: colour(COLOURS[at]), width: 1.6, dash: at > 2 ? "dot" : "solid" },
  });
  const edge = (at, more) => ({
    type: "scatter", mode: "lines", x: times(view.band.map(([of]) => of)), y: view.band.map(([, span]) => span[at]), hoverinfo: "skip",
    line: { color: colour("grid"), width: 1 }, ...more,
  });
  return [
    edge(0, {}), edge(1, { fill: "tonexty", fillcolor: `${colour("axis")}40` }), ...view.lines.map(line),
    dots(view.marks.filter((one) => !one.alert), times, "y", "Anomaly", form,
      { symbol: "circle-open", size: 7, color: colour("anomaly"), line: { width: 1.6 } }),
    alertDots(view, times, "y", form, colour),
  ].filter((one) => one.x.length);
}

function scoreTraces(view, times, symbol, colour) {
  const form = "%{y:.4f}";
  return [
    { type: "scatter", mode: "lines", name: "score", x: times(view.scores.x), y: view.scores.y,
      hovertemplate: `Lowest score ${form}<extra></extra>`, line: { color: colour(symbol ? "line" : "text"), width: 1.2 } },
    alertDots(view, times, "score", form, colour),
  ].filter((one) => one.x.length);
}

/** What is written around the plots stands beside them in the page: Plotly would measure every text at every draw. */
function layout({ range, nticks, isPaused, revision }, margin, xaxis, yaxis, colour) {
  const axis = { automargin: false, ticklabeloverflow: "allow", zeroline: false };
  return {
    margin: { l: LEFT, r: 12, ...margin }, hovermode: "x", dragmode: isPaused ? "zoom" : false, uirevision: revision,
    xaxis: { ...axis, type: "date", range, nticks, hoverformat: "%H:%M:%S", tickangle: 0, showspikes: true, spikemode: "across",
      spikesnap: "cursor", spikethickness: 1, spikedash: "dot", spikecolor: colour("axis"), ...xaxis },
    yaxis: { ...axis, ...yaxis },
  };
}

const priceLayout = (of, symbol, colour) =>
  layout(of, { t: 20, b: 4 }, { showticklabels: false }, { tickformat: symbol ? ",~r" : ".2~f", nticks: 6 }, colour);

const scoreLayout = (of, colour) => ({
  ...layout(of, { t: 36, b: 36 }, {}, { nticks: 4 }, colour),
  shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, line: { color: colour("anomaly"), width: 1.2, dash: "dash" } }],
});

/**
 * The chart with its axes and its key: {frame, key, draw(view, symbol, isPaused), anew(), isResting(), end()}. `cover` stands
 * over it; `onAlert(id)` hears of an alert that is chosen in it, `onFailed(error)` of what could not be drawn.
 */
export function liveChart(cover, { onAlert, onFailed }) {
  const [upper, lower] = [h("div", { id: "live-prices" }), h("div", { id: "live-scores" })];
  const above = h("span", { class: "hint live-axis" });
  const beneath = h("span", { class: "hint live-axis live-axis-score" });
  const key = h("span", { class: "hint", id: "live-key" });
  const frame = h("div", { class: "live-frame" }, h("div", { class: "live-plots" }, upper, lower), above, beneath, cover);
  // Two plots and not one of both, so that a draw is two short tasks and not a long one.
  const prices = chart(upper, "Prices with anomalies and alerts", ZOOM);
  const scores = chart(lower, "Anomaly score with alerts and its threshold 0", ZOOM);
  let drawn = [];
  let zoom = null;
  let revision = 0;
  let drawAfter = 0;
  let isHearing = false;
  /** Shows the crosshair in the plot that the pointer is not in; null where it is in none. */
  let cross = null;

  /** Says what is what in the chart; as elements only where it is something else than before. */
  function drawKey(view, symbol) {
    const names = symbol ? [] : view.lines.map((one) => one.symbol);
    const others = view.band.length ? `${view.others} others` : "";
    const many = view.areMore ? ` (the ${MOST.marks} gravest)` : "";
    const is = [many, others, ...names].join();
    if (key.dataset.is === is) return;
    key.dataset.is = is;
    const one = (mark, text, colour) => h("span", { class: "nowrap" },
      h("b", { "aria-hidden": "true", style: { color: `var(--chart-${colour})` } }, mark), ` ${text}`);
    fill(key, names.map((name, at) => one(at > 2 ? "┅" : "━", name, COLOURS[at])), others && one("▒", others, "axis"),
      one("○", `anomaly${many}`, "anomaly"), one("◆", "alert", "alert"), one("┄", "threshold 0", "anomaly"));
  }

  async function draw(view, symbol, isPaused) {
    const began = performance.now();
    drawn = [view, symbol, isPaused];
    drawKey(view, symbol);
    say(above, `${symbol ? `Price (${symbol.split("-")[1]})` : "Change since the window began (%)"}, ${zoneName()}`);
    say(beneath, symbol ? "Anomaly score" : "Lowest anomaly score of all symbols");
    const times = (x) => x.map((at) => at + chartTime(view.end) - view.end);
    const range = (isPaused && zoom) || [chartTime(view.from), chartTime(view.end)];
    const of = { range, nticks: Math.ceil(upper.clientWidth / 120), isPaused, revision: `${revision}` };
    try {
      await prices.draw((colour) => priceTraces(view, times, symbol, colour), (colour) => priceLayout(of, symbol, colour));
      await scores.draw((colour) => scoreTraces(view, times, symbol, colour), (colour) => scoreLayout(of, colour));
    } catch (error) {
      onFailed(error);
      return;
    }
    const pixel = (view.end - view.from) / upper.clientWidth;
    drawAfter = Math.max(began + Math.min(pixel, REST_MS), performance.now() + (performance.now() - began) * (1 / DRAW_SHARE - 1));
    if (!isHearing && upper.on && lower.on) hear();
    cross?.();
  }

  function hear() {
    isHearing = true;
    for (const [plot, other] of [[upper, scores], [lower, prices]]) {
      plot.on("plotly_hover", ({ event }) => {
        cross = () => other.point(event.pointerX - LEFT);
        cross();
      });
      plot.on("plotly_unhover", () => {
        cross = null;
        other.point(null);
      });
      plot.on("plotly_click", ({ points }) => {
        const alert = points.find((point) => point.customdata)?.customdata;
        if (alert) onAlert(alert);
      });
      plot.on("plotly_relayout", (change) => {
        if (!("xaxis.range[0]" in change)) return;
        zoom = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
        draw(...drawn);
      });
      plot.on("plotly_doubleclick", () => {
        anew();
        draw(...drawn);
      });
    }
  }

  /** The next draw, which need not wait, shows the whole again, whatever was zoomed into. */
  function anew() {
    zoom = null;
    revision += 1;
    drawAfter = 0;
  }

  return {
    frame,
    key,
    draw,
    anew,
    isResting: () => performance.now() < drawAfter,
    end() {
      prices.end();
      scores.end();
    },
  };
}
