// The chart of the live page: prices with anomalies and alerts, and beneath them the anomaly score.

import { chart } from "./charts.js";
import { fill, h, say } from "./dom.js";
import { chartTime, zoneName } from "./format.js";
import { MOST } from "./live-series.js";

/** Colours of the lines that symbols have of their own. */
const COLOURS = ["line", "second", "fourth", "third", "fifth", "sixth"];

/** How many have one where there are more symbols than colours: each line makes every draw longer. */
const FEW = 3;

/** Part of the time that drawing may take: a slow machine draws more rarely. */
const DRAW_SHARE = 0.4;

/** What is newer by less than a pixel is not drawn, for so long at most. */
const REST_MS = 1_000;

/** Those of the symbols that have a line of their own; the others are a band. */
export const lined = (symbols) => symbols.slice(0, symbols.length > COLOURS.length ? FEW : COLOURS.length);

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
      hovertemplate: "Lowest score %{y:.4f}<extra></extra>", line: { color: colour(symbol ? "line" : "text"), width: 1.2 } },
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

/**
 * The chart with its axes and its key: {frame, key, draw(view, symbol, isPaused), anew(), isResting(), end()}. `cover` stands
 * over it; `onAlert(id)` hears of an alert that is chosen in it, `onFailed(error)` of what could not be drawn.
 */
export function liveChart(cover, { onAlert, onFailed }) {
  const plot = h("div", { class: "live-plot", id: "live-chart" });
  const above = h("span", { class: "hint live-axis" });
  const beneath = h("span", { class: "hint live-axis live-axis-score" });
  const key = h("span", { class: "hint", id: "live-key" });
  const frame = h("div", { class: "live-frame" }, plot, above, beneath, cover);
  const picture = chart(plot, "Prices with anomalies and alerts, and beneath them the anomaly score with its threshold 0");
  let drawn = [];
  let revision = 0;
  let drawAfter = 0;
  let isHearing = false;

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
    const kept = `${revision}`;
    try {
      await picture.draw((colour) => traces(view, symbol, colour),
        (colour) => layout(view, symbol, isPaused, kept, plot.clientWidth, colour));
    } catch (error) {
      onFailed(error);
      return;
    }
    const pixel = (view.end - view.from) / plot.clientWidth;
    drawAfter = Math.max(began + Math.min(pixel, REST_MS), performance.now() + (performance.now() - began) * (1 / DRAW_SHARE - 1));
    if (plot.on && !isHearing) hear();
  }

  function hear() {
    isHearing = true;
    plot.on("plotly_click", ({ points }) => {
      const alert = points.find((point) => point.customdata)?.customdata;
      if (alert) onAlert(alert);
    });
    plot.on("plotly_doubleclick", () => {
      revision += 1;
      draw(...drawn);
    });
  }

  return {
    frame,
    key,
    draw,
    /** The next draw, which need not wait, shows the whole again, whatever was zoomed into. */
    anew() {
      revision += 1;
      drawAfter = 0;
    },
    isResting: () => performance.now() < drawAfter,
    end: picture.end,
  };
}
