// The parts that all pages are built of: cards, figures, states, choices, notices, dialogs.

import { FEATURES, NONE, number, percent, words } from "./format.js";
import { fill, h, say, svg, uniqueId } from "./dom.js";

/** A titled part of a page. `actions` stand at the end of its head; `id` names it for tests and links. */
export function card(title, { id, actions, hint, wide, className } = {}, ...children) {
  const heading = uniqueId("card");
  return h("section", { class: `card${wide ? " card-wide" : ""}${className ? ` ${className}` : ""}`, id, "aria-labelledby": heading },
    h("header", { class: "card-head" }, h("h2", { id: heading }, title), hint && h("span", { class: "hint" }, hint),
      actions && h("div", { class: "card-actions" }, actions)),
    ...children);
}

/** A figure with its name: {node, set(text, note)}. The width stays the same while digits change. */
export function figure(label, { id, unit } = {}) {
  const value = h("span", { class: "figure-value", id }, NONE);
  const note = h("span", { class: "figure-note" });
  const node = h("div", { class: "figure" }, h("span", { class: "figure-label" }, label),
    h("span", { class: "figure-line" }, value, unit && h("span", { class: "figure-unit" }, unit)), note);
  return {
    node,
    set(text, more = "") {
      say(value, text);
      say(note, more);
    },
  };
}

const STATE_SHAPES = { good: "●", fair: "▲", bad: "■", idle: "○" };

const STATE_TONES = {
  online: "good", live: "good", succeeded: "good", champion: "good", running: "fair", connecting: "fair", degraded: "fair",
  stale: "fair", pending: "idle", interrupted: "fair", offline: "bad", broken: "bad", failed: "bad", refused: "bad", cancelled: "idle",
};

/** A state with a shape and a word, so that no colour has to be seen. */
export function state(name, text = words(name)) {
  const tone = STATE_TONES[name] ?? "idle";
  return h("span", { class: `state state-${tone}` }, h("span", { "aria-hidden": "true" }, STATE_SHAPES[tone]), text);
}

/** Puts a state into a place, where it is another one. */
export function showState(place, name, text = words(name)) {
  const key = `${name} ${text}`;
  if (place.dataset.shown === key) return;
  place.dataset.shown = key;
  fill(place, state(name, text));
}

function pairRows(rows) {
  return h("table", { class: "plain pairs" }, h("tbody", {}, rows.map(([name, cell]) =>
    h("tr", {}, h("th", { scope: "row" }, name), cell))));
}

/** Names with their values, as a table of two columns. `rows`: [[name, text or nodes]]. */
export function pairTable(rows) {
  return pairRows(rows.map(([name, value]) => [name, h("td", {}, value ?? NONE)]));
}

/** Names whose values are to be set, as such a table: {node, set(name, ...texts and nodes)}. */
export function pairs(names) {
  const cells = new Map(names.map((name) => [name, h("td", {}, NONE)]));
  return {
    node: pairRows([...cells]),
    set(name, ...content) {
      if (content.every((part) => typeof part === "string")) say(cells.get(name), content.join(""));
      else fill(cells.get(name), ...content);
    },
  };
}

/** What may be wider than its place, which then scrolls: by the keyboard as well. */
export function scroller(label, child) {
  return h("div", { class: "scroll-x", tabindex: "0", role: "region", "aria-label": label }, child);
}

/** How bad an alert is, as a badge. */
export function severity(name) {
  const mark = { notice: "·", warning: "!", high: "!!", critical: "!!!" }[name] ?? "";
  return h("span", { class: `badge badge-${name}` }, `${words(name)} ${mark}`.trim());
}

/** A button. `kind`: plain, primary or danger. */
export function button(text, onPress, { kind = "plain", title, disabled, id, pressed } = {}) {
  return h("button", { type: "button", class: `button button-${kind}`, title, disabled, id,
    "aria-pressed": pressed === undefined ? null : String(pressed), on: { click: onPress } }, text);
}

/** A choice of one among few, as buttons side by side: {node, set(value)}. `options`: [[value, text]]. */
export function choice(label, options, value, onChange) {
  const buttons = options.map(([of, text]) =>
    h("button", { type: "button", class: "choice-option", data: { value: of }, on: { click: () => { set(of); onChange(of); } } }, text));
  const node = h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  function set(chosen) {
    for (const one of buttons) one.setAttribute("aria-pressed", String(one.dataset.value === String(chosen)));
  }
  set(value);
  return { node, set };
}

/** A choice of one among many, as a list: {node, set(value), options(list)}. */
export function select(label, options, value, onChange, id = uniqueId("select")) {
  const list = h("select", { id, on: { change: () => onChange(list.value) } });
  const node = h("label", { class: "field", for: id }, h("span", {}, label), list);
  const control = {
    node,
    set(chosen) {
      list.value = chosen ?? "";
    },
    options(of) {
      const chosen = list.value;
      fill(list, of.map(([key, text]) => h("option", { value: key }, text)));
      list.value = of.some(([key]) => key === chosen) ? chosen : value ?? "";
    },
  };
  control.options(options);
  control.set(value);
  return control;
}

/** A switch: {node, set(on)}. */
export function toggle(label, on, onChange) {
  const id = uniqueId("toggle");
  const box = h("input", { type: "checkbox", id, role: "switch", on: { change: () => onChange(box.checked) } });
  box.checked = on;
  return { node: h("label", { class: "toggle", for: id }, box, h("span", {}, label)), set(value) { box.checked = value; } };
}

/** Gives a control the id by which tests know it: its list or input, where it has one. */
export function named(control, id) {
  const input = control.node.querySelector("select, input");
  if (input) input.id = control.node.htmlFor = id;
  else control.node.id = id;
  return control;
}

/** A field for a text: {node, value(), set(text)}. `onChange` hears the text when it is finished. */
export function field(label, { type = "text", value = "", placeholder, onChange, required } = {}) {
  const id = uniqueId("field");
  const input = h("input", { id, type, placeholder, required, autocomplete: "off", on: { change: () => onChange?.(input.value) } });
  input.value = value;
  return { node: h("label", { class: "field", for: id }, h("span", {}, label), input), input, value: () => input.value,
    set(text) { input.value = text ?? ""; } };
}

/** What stands in a place while its content is fetched; as high as that will be, so that nothing jumps. */
export function loading(text = "Loading", height = 96) {
  return h("div", { class: "notice notice-loading", style: { "min-height": `${height}px` }, "aria-busy": "true" }, h("span", { class: "spinner" }), text);
}

/** What stands where there is nothing: why, and what brings something. */
export function empty(title, detail = "", ...actions) {
  return h("div", { class: "notice" }, h("strong", {}, title), detail && h("p", {}, detail), actions);
}

/** What stands where something failed, with a way to try again. */
export function failure(error, again) {
  const id = error.requestId ? h("p", { class: "hint" }, `Request ${error.requestId}`) : null;
  return h("div", { class: "notice notice-bad", role: "alert" }, h("strong", {}, "This could not be shown"), h("p", {}, error.message), id,
    again && button("Try again", again));
}

/** What stands where a model is needed and there is none yet. `text` is what the service says of its model. */
export function waiting(text) {
  const [, have, need] = /(\d+) of (\d+)/.exec(text ?? "") ?? [];
  return h("div", { class: "notice", role: "status" }, h("strong", {}, "No model yet"),
    need && h("progress", { max: need, value: have, "aria-label": "Feature rows for the first model" }),
    h("p", {}, text || "The first model is trained once there are enough feature rows."),
    h("p", { class: "hint" }, "This page goes on by itself when the model is there."));
}

/** Says something in passing, in the corner. `tone`: good or bad. */
export function toast(text, tone = "good") {
  const node = h("div", { class: `toast toast-${tone}` }, text);
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), tone === "bad" ? 12_000 : 5_000);
}

/** Opens a dialog over the page; it closes by Escape, by its button or `close()`. `onClose` hears of it. */
export function dialog(title, content, { onClose, side = false } = {}) {
  const heading = uniqueId("dialog");
  const node = h("dialog", { class: side ? "dialog dialog-side" : "dialog", "aria-labelledby": heading },
    h("header", { class: "card-head" }, h("h2", { id: heading }, title),
      h("div", { class: "card-actions" }, button("Close", () => node.close(), { title: "Close (Escape)" }))),
    h("div", { class: "dialog-body" }, content));
  node.addEventListener("close", () => {
    node.remove();
    onClose?.();
  });
  node.addEventListener("click", (event) => {
    if (event.target === node) node.close();
  });
  document.body.append(node);
  node.showModal();
  return { node, close: () => node.close() };
}

/** Asks for a reason before something is done: what was written, or null. */
export function askReason(title, detail, action) {
  return new Promise((resolve) => {
    let reason = null;
    const text = field("Reason, for the history", { required: true });
    const form = h("form", { class: "stack", on: { submit: (event) => {
      event.preventDefault();
      reason = text.value().trim();
      if (reason) opened.close();
      else reason = null;
    } } }, h("p", {}, detail), text.node, h("button", { type: "submit", class: "button button-primary" }, action));
    const opened = dialog(title, form, { onClose: () => resolve(reason) });
    text.input.focus();
  });
}

/** A half-circle gauge: {node, set(share, text, tone)}; `share` is 0 to 1. */
export function gauge(label) {
  const length = Math.PI * 80;
  const arc = (name) => svg("path", { d: "M20 100 A80 80 0 0 1 180 100", class: name, "stroke-dasharray": length });
  const value = arc("gauge-value");
  const text = svg("text", { x: 100, y: 92, class: "gauge-text" });
  const picture = svg("svg", { viewBox: "0 0 200 112", role: "img", "aria-label": label }, arc("gauge-rail"), value, text);
  const node = h("figure", { class: "gauge" }, picture, h("figcaption", {}, label));
  function set(share, shown, tone = "idle") {
    const bounded = Math.min(Math.max(Number.isFinite(share) ? share : 0, 0), 1);
    value.setAttribute("stroke-dashoffset", String(length * (1 - bounded)));
    value.setAttribute("data-tone", tone);
    say(text, shown);
    picture.setAttribute("aria-label", `${label}: ${shown}`);
  }
  set(0, NONE);
  return { node, set };
}

/** The shares that features have in a score, as bars with value and expected range. `features` is that of /explain. */
export function shares(features) {
  return h("table", { class: "shares" },
    h("thead", {}, h("tr", {}, ["Feature", "Share", h("span", { class: "visually-hidden" }, "Share, drawn"), "Value", "Expected", "Off by"]
      .map((text, at) => h("th", { scope: "col", class: at > 2 || at === 1 ? "end" : "" }, text)))),
    h("tbody", {}, features.map((one) => h("tr", {},
      h("th", { scope: "row", title: FEATURES[one.feature]?.about }, FEATURES[one.feature]?.name ?? one.feature),
      h("td", { class: "end" }, percent(one.share, 0)),
      h("td", { class: "shares-bar" }, h("span", { style: { width: `${Math.max(one.share, 0) * 100}%` } })),
      h("td", { class: "end" }, number(one.value, 4)),
      h("td", { class: "end" }, `${number(one.expected_low, 3)} to ${number(one.expected_high, 3)}`),
      h("td", { class: "end" }, `${number(one.deviations, 1)} σ`)))));
}
