// The frame of all pages: which is shown, how the connection is, what alerts nobody has seen, how times and colours are.

import { told, useKey } from "./api.js";
import { link, read } from "./address.js";
import { choice, dialog, failure, field, loading, state } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { ago, zoneName } from "./format.js";
import { onPreference, prefer, prefs } from "./prefs.js";
import { follow } from "./stream.js";

const PAGES = [
  ["status", "Status"],
  ["live", "Live"],
  ["analytics", "Analytics"],
  ["test", "Manual test"],
  ["models", "Models"],
  ["jobs", "Jobs"],
];

const main = document.getElementById("main");

/** Tells pages of alerts, the status and runs: events `alert`, `status`, `run`, `missed` with `detail`; `connection` as well. */
export const events = new EventTarget();

/** The newest status of all parts; null before the first. */
export let status = null;

/** How the connection to the service is: {state, since, retryAt, error}. */
export let connection = { state: "connecting", since: Date.now() };

let shown = null;
let ending = () => {};
let unseen = 0;
let stopFollowing = () => {};

function title() {
  const name = PAGES.find(([page]) => page === shown?.page)?.[1] ?? "";
  document.title = `${unseen ? `(${unseen}) ` : ""}${name} · Sentinel`;
}

const links = PAGES.map(([page, name]) => h("a", { href: link(page), data: { page } }, name));
fill(document.getElementById("pages"), links);

/** Shows the page that the address names, or tells the one that is shown that its settings have changed. */
async function show() {
  const { page, query } = read();
  const known = PAGES.some(([name]) => name === page) ? page : "status";
  if (shown?.page === known) {
    shown.module?.update?.(query);
    return;
  }
  ending();
  ending = () => {};
  const showing = { page: known, module: null };
  shown = showing;
  for (const one of links) {
    if (one.dataset.page === known) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  if (known === "live") seen();
  title();
  const root = h("div", { class: "page", id: `page-${known}` }, loading("Loading the page", 480));
  fill(main, h("h1", { class: "visually-hidden" }, PAGES.find(([name]) => name === known)[1]), root);
  try {
    const module = await import(`./page-${known}.js`);
    if (shown !== showing) return;
    fill(root);
    showing.module = module.mount(root, read().query);
    ending = () => showing.module.end?.();
  } catch (error) {
    if (shown === showing) fill(root, failure(error, () => location.reload()));
  }
}

function seen() {
  unseen = 0;
  title();
}

function connect() {
  stopFollowing();
  stopFollowing = follow({
    kinds: ["alert", "status", "run"],
    severity: "notice",
    onEvent(kind, data) {
      if (kind === "status") status = data;
      if (kind === "alert" && data.is_raising && data.severity !== "notice" && (shown?.page !== "live" || document.hidden)) {
        unseen += 1;
        title();
      }
      events.dispatchEvent(new CustomEvent(kind, { detail: data }));
    },
    onState(to) {
      connection = to;
      showConnection();
      events.dispatchEvent(new CustomEvent("connection", { detail: to }));
    },
  });
}

const CONNECTION_WORDS = { connecting: "Connecting", live: "Live", stale: "Stale", broken: "Disconnected", refused: "Key needed" };

function showConnection() {
  const place = document.getElementById("connection");
  const name = connection.state;
  if (place.dataset.state !== name) {
    place.dataset.state = name;
    fill(place, state(name, CONNECTION_WORDS[name]));
  }
  const next = connection.retryAt && connection.retryAt > Date.now() ? `; next try ${ago(connection.retryAt)}` : "";
  place.title = connection.error ? `${connection.error}${next}` : `since ${ago(connection.since)}`;
}

let keyDialog = null;

function askKey() {
  if (keyDialog) return;
  const input = field("API key", { type: "password", placeholder: "sntl_..." });
  const form = h("form", { class: "stack", on: { submit: (event) => {
    event.preventDefault();
    useKey(input.value().trim());
    keyDialog.close();
    location.reload();
  } } },
    h("p", {}, "This service asks for an API key with the scope read, and predict for the manual test. It is kept until this tab is closed. ",
      h("code", {}, "sentinel key create"), " makes one."),
    input.node, h("button", { type: "submit", class: "button button-primary" }, "Use this key"));
  keyDialog = dialog("API key", form, { onClose: () => { keyDialog = null; } });
}

function drawSwitches() {
  const zone = choice("Time zone", [["utc", "UTC"], ["local", "Local"]], prefs.zone, (value) => prefer("zone", value));
  const theme = choice("Theme", [["light", "Light"], ["system", "Auto"], ["dark", "Dark"]], prefs.theme, (value) => prefer("theme", value));
  fill(document.getElementById("switches"), zone.node, theme.node);
}

function sayZone() {
  for (const place of document.querySelectorAll("[data-zone]")) say(place, zoneName());
}

told.addEventListener("key-needed", askKey);
told.addEventListener("simulated", () => { document.getElementById("simulated").hidden = false; });
onPreference((name) => {
  if (name === "zone") {
    sayZone();
    shown?.module?.zone?.();
  }
});
window.addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && shown?.page === "live") seen();
});
setInterval(showConnection, 1000);

drawSwitches();
showConnection();
connect();
show();
