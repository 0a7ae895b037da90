// The list of alerts of the live page: read from the service, and kept up by what is told.

import { get } from "./api.js";
import { button, empty, failure, loading, severity } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { ago, FEATURES, number, percent, score, words } from "./format.js";

/** How grave alerts are, the least first. */
export const RANKS = ["notice", "warning", "high", "critical"];

const MOST_ALERTS = 500;

/** The list of alerts: {node, load(), change(query), take(event), pause(isPaused), put(alert), age(), end()}. */
export function alertList({ onOpen, filters }) {
  const items = new Map();
  let query = {};
  let next = null;
  let asking = new AbortController();
  let settling = 0;
  let isPaused = false;
  const list = h("ol", { class: "live-alerts", id: "live-alerts", tabindex: "-1" });
  const rest = h("div", {});
  const said = h("p", { class: "live-said", id: "live-said", role: "status", "aria-live": "polite" });
  const node = h("div", { class: "live-alerts-frame" }, filters, list, rest, said);

  const isWanted = (one) => (!query.symbol || one.symbol === query.symbol) && !(query.open && one.acknowledged)
    && RANKS.indexOf(one.severity) >= RANKS.indexOf(query.severity ?? "warning");

  const inOrder = () => [...items.values()].sort((a, b) => Date.parse(b.alert.raised_at) - Date.parse(a.alert.raised_at));

  /** A row, made once: whatever is told of its alert, a click or the focus on it is not lost. */
  function row(id) {
    const opens = h("button", { type: "button", class: "live-alert", data: { alert: id }, on: { click: () => onOpen(id) } });
    return { node: h("li", {}, opens), opens, age: h("span", { class: "hint live-alert-last" }) };
  }

  function write({ opens, age, alert }) {
    const done = [alert.acknowledged && "✓ acknowledged", alert.verdict && words(alert.verdict)].filter(Boolean).join(" · ");
    say(age, ago(alert.raised_at));
    fill(opens,
      h("span", { class: "live-alert-line" }, severity(alert.severity), h("strong", {}, alert.symbol), age),
      h("span", { class: "live-alert-line" }, h("span", {}, words(alert.alert_type)), h("span", { class: "hint live-alert-last" },
        `by ${FEATURES[alert.peak.leading_feature]?.name ?? alert.peak.leading_feature}, ${percent(alert.peak.share, 0)}`)),
      h("span", { class: "live-alert-line hint" }, h("span", {}, `Score ${score(alert.peak.anomaly_score)}`),
        h("span", {}, `${number(alert.events)} event${alert.events === 1 ? "" : "s"}`),
        h("span", { class: "live-alert-last" }, done || "open")));
  }

  /** Shows the items in their order; those that stay are not moved, so that none loses the focus. */
  function draw() {
    if (isPaused) return;
    const order = inOrder().filter((one) => isWanted(one.alert)).slice(0, MOST_ALERTS);
    order.forEach((one, at) => {
      if (list.children[at] !== one.node) list.insertBefore(one.node, list.children[at] ?? null);
    });
    while (list.children.length > order.length) list.lastChild.remove();
    const nothing = query.symbol || query.severity || query.open ? "No alert fits these filters" : "No alerts yet";
    fill(rest, order.length === 0 && empty(nothing, "An alert is raised by a confirmed anomaly of a rare score."),
      next && order.length < MOST_ALERTS && button("Older alerts", () => load(next), { id: "live-older" }));
  }

  function put(alert, isNew = false) {
    const known = items.get(alert.id) ?? row(alert.id);
    if (JSON.stringify(known.alert) === JSON.stringify(alert)) return;
    known.alert = alert;
    write(known);
    if (isNew) {
      known.node.className = "is-new";
      setTimeout(() => { known.node.className = ""; }, 4_000);
    }
    items.set(alert.id, known);
  }

  async function load(cursor = null) {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    try {
      const page = await get("/alerts", { symbol: query.symbol, severity: query.severity, acknowledged: query.open ? false : null,
        limit: 100, cursor }, { signal });
      for (const alert of page.alerts) put(alert);
      if (cursor || items.size <= 100) next = page.next;
      draw();
    } catch (error) {
      if (error.name !== "AbortError") fill(rest, failure(error, () => load(cursor)));
    }
  }

  /** Takes in an event of an alert as it is told; the list is asked again when it is committed. */
  function take(event) {
    if (query.symbol && event.symbol !== query.symbol) return;
    const before = items.get(event.alert_id)?.alert;
    const isGraver = !before || event.anomaly_score < before.peak.anomaly_score;
    const { symbol, alert_type, severity: rank, raised_at, timestamp, anomaly_score, leading_feature, share } = event;
    const alert = {
      acknowledged: false, verdict: null, ...before, id: event.alert_id, symbol, alert_type, raised_at, last_at: timestamp,
      events: (before?.events ?? 0) + 1, severity: isGraver ? rank : before.severity,
      peak: isGraver ? { anomaly_score, leading_feature, share } : before.peak,
    };
    put(alert, event.is_raising);
    if (event.is_raising && isWanted(alert) && !isPaused) say(said,
      `${words(rank)} alert: ${words(alert_type)} of ${symbol}, score ${score(anomaly_score)}`);
    if (items.size > 2 * MOST_ALERTS) for (const one of inOrder().slice(MOST_ALERTS)) items.delete(one.alert.id);
    draw();
    settling ||= setTimeout(() => { settling = 0; load(); }, 8_000);
  }

  return {
    node, take, load: () => load(),
    put(alert) {
      put(alert);
      draw();
    },
    change(to) {
      query = to;
      items.clear();
      next = null;
      fill(list);
      fill(rest, loading("Loading the alerts", 200));
      load();
    },
    pause(to) {
      isPaused = to;
      draw();
    },
    age() {
      for (const one of items.values()) say(one.age, ago(one.alert.raised_at));
    },
    end() {
      asking.abort();
      clearTimeout(settling);
    },
  };
}
