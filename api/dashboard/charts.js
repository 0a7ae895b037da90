// Charts by Plotly, whose bundle is loaded when the first chart is. SVG traces only, with no more points than can be seen.

import { onPreference } from "./prefs.js";

const BUNDLE = "/assets/plotly-3.0.1.min.js";

/** Points that the traces of a chart have together, at most. */
export const MOST_POINTS = 2_000;

let loaded = null;

/** Plotly, loaded once. */
function plotly() {
  loaded ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = BUNDLE;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      loaded = null;
      reject(new Error("the charts could not be loaded"));
    };
    document.head.append(script);
  });
  return loaded;
}

const colours = new Map();
const sample = document.createElement("span");

/** A colour token as Plotly takes it, which knows no light-dark(): what the browser makes of it now. */
export function colour(name) {
  if (!colours.has(name)) {
    if (!sample.isConnected) document.body.append(sample);
    sample.style.color = `var(--chart-${name})`;
    colours.set(name, getComputedStyle(sample).color);
  }
  return colours.get(name);
}

// Before any chart hears of it.
onPreference((name) => name === "theme" && colours.clear());

/** What every chart looks like, with `more` laid over it. */
function layout(more) {
  const axis = { gridcolor: colour("grid"), linecolor: colour("grid"), zerolinecolor: colour("axis"), automargin: true };
  const merged = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colour("text") },
    margin: { l: 56, r: 16, t: 8, b: 32 },
    showlegend: false,
    hoverlabel: { font: { family: "system-ui, sans-serif", size: 12 } },
    dragmode: "zoom",
    ...more,
  };
  for (const name of Object.keys(merged).filter((key) => /^[xy]axis\d*$/.test(key))) merged[name] = { ...axis, ...merged[name] };
  return { xaxis: axis, yaxis: axis, ...merged };
}

const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: "reset" };

/**
 * A chart in an element whose height is set by its style: {draw(traces, layout), point(x), end()}. `make(colour)` may be given
 * instead of traces and is called again when the theme changes, so that colours follow. While nobody sees the page nothing is
 * drawn. `config` is laid over Plotly's.
 */
export function chart(element, label, config = {}) {
  element.classList.add("chart");
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label);
  let newest = null;
  let drawing = null;
  let ended = false;

  async function drawNewest() {
    const library = await plotly();
    while (newest && !ended) {
      const { traces, more } = newest;
      newest = null;
      kept = { traces, more };
      const data = typeof traces === "function" ? traces(colour) : traces;
      const around = layout(typeof more === "function" ? more(colour) : more);
      // What is computed and what is drawn are two tasks, between which the page hears of clicks.
      await new Promise((resolve) => setTimeout(resolve));
      if (!ended) await library.react(element, data, around, { ...CONFIG, ...config });
    }
  }
  let kept = null;

  /** Draws what is newest; what was to be drawn meanwhile is left out. Resolves when it is there. */
  function draw(traces, more = {}) {
    newest = { traces, more };
    if (document.hidden) return Promise.resolve();
    drawing ??= drawNewest().finally(() => { drawing = null; });
    return drawing;
  }

  const again = () => kept && !newest && draw(kept.traces, kept.more);
  const stopPreference = onPreference(again);
  const onVisible = () => !document.hidden && newest && draw(newest.traces, newest.more);
  document.addEventListener("visibilitychange", onVisible);
  let resizing = 0;
  const sizes = new ResizeObserver(() => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => !ended && kept && element.clientWidth && window.Plotly?.Plots.resize(element));
  });
  sizes.observe(element);

  return {
    draw,
    /** The crosshair so many pixels from the left end of the axes, as if the pointer were there; none where `x` is null. */
    point(x) {
      if (ended) return;
      if (x === null) window.Plotly.Fx.unhover(element);
      else window.Plotly.Fx.hover(element, { xpx: x }, "xy");
    },
    end() {
      ended = true;
      stopPreference();
      document.removeEventListener("visibilitychange", onVisible);
      sizes.disconnect();
      window.Plotly?.purge(element);
    },
  };
}

/**
 * The places of at most `most` points that show a line as all of them would: of every stretch its least and its greatest
 * value, in their order. `values` may have nulls.
 */
export function decimated(values, most) {
  const count = values.length;
  if (count <= most) return values.map((_, at) => at);
  const stretches = Math.max(Math.floor(most / 2), 1);
  const places = [];
  for (let stretch = 0; stretch < stretches; stretch += 1) {
    const from = Math.floor((stretch * count) / stretches);
    const to = Math.floor(((stretch + 1) * count) / stretches);
    let least = from;
    let greatest = from;
    for (let at = from + 1; at < to; at += 1) {
      if (values[at] < values[least]) least = at;
      if (values[at] > values[greatest]) greatest = at;
    }
    places.push(Math.min(least, greatest));
    if (least !== greatest) places.push(Math.max(least, greatest));
  }
  return places;
}
