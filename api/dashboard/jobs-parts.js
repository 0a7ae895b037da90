// What the jobs page and its dialogs have in common: links, cron texts in words, times that go on being counted.

import { change, link } from "./address.js";
import { h, say } from "./dom.js";
import { NONE, ago, duration, milliseconds, zoneName } from "./format.js";

/** States of runs that have not ended. */
export const GOING = ["pending", "running", "interrupted"];

/** The name of the zone, which is kept up when another one is preferred. */
export const zone = () => h("span", { data: { zone: "" } }, zoneName());

/** A link that opens a run or a schedule beside the page, whose filters stay. */
export function opening(content, what, id) {
  return h("a", { href: link("jobs", what), id, on: { click: (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    change({ run: null, schedule: null, ...what });
  } } }, content);
}

/** What the most usual cron texts say. */
export function cronWords(cron) {
  const [minute, hour, ...days] = cron.split(/\s+/);
  const two = (text) => text.padStart(2, "0");
  if (days.join(" ") !== "* * *") return "";
  const each = /^\*\/(\d+)$/;
  if (hour === "*" && each.test(minute)) return `every ${each.exec(minute)[1]} min`;
  if (!/^\d+$/.test(minute)) return "";
  if (hour === "*") return `hourly at :${two(minute)}`;
  if (each.test(hour)) return `every ${each.exec(hour)[1]} h at :${two(minute)}`;
  return /^\d+$/.test(hour) ? `daily at ${two(hour)}:${two(minute)}` : "";
}

/** How long a run takes or took; what goes on is counted on by `tick`. */
export function took({ created, ended, state: name }) {
  if (ended) return duration((milliseconds(ended) - milliseconds(created)) / 1000);
  return GOING.includes(name) ? h("span", { data: { since: created } }, since(created)) : NONE;
}

function since(at) {
  return duration(Math.max(Math.floor((Date.now() - milliseconds(at)) / 1000), 0));
}

/** Goes on counting what the elements in a part of the page count. */
export function tick(part) {
  for (const one of part.querySelectorAll("[data-since]")) say(one, since(one.dataset.since));
  for (const one of part.querySelectorAll("[data-at]")) say(one, one.dataset.at ? ago(one.dataset.at) : "");
}
