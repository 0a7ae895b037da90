// The dialogs of the jobs page: a run, a schedule, and what is asked before something is done to them.

import { get, poll, post } from "./api.js";
import { button, dialog, empty, failure, field, pairs, select, state, toast } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { NONE, duration, moment, number, time, words } from "./format.js";
import { GOING, cronWords, opening, took, zone } from "./jobs-parts.js";

/** Asks before something is done; what the service refuses stays in the dialog, to be tried again. */
function confirm(title, detail, control, action, perform, kind = "primary") {
  const error = h("p", { class: "anomalous", role: "alert" });
  const submit = h("button", { type: "submit", class: `button button-${kind}`, id: "jobs-confirm" }, action);
  const form = h("form", { class: "stack", on: { submit: async (event) => {
    event.preventDefault();
    submit.disabled = true;
    say(error, "");
    try {
      await perform();
      opened.close();
    } catch (refused) {
      say(error, refused.message);
      submit.disabled = false;
    }
  } } }, h("p", {}, detail), control, error, h("div", {}, submit));
  const opened = dialog(title, form);
  (form.querySelector("input, select") ?? submit).focus();
}

const started = (runs) => (runs.length ? `Started run ${runs.join(", ")}` : "No run was started");

/** Asks whether a schedule is to be run now. */
export function trigger(name) {
  // One dialog starts one run, however often its button is pressed.
  const key = `dashboard-${Date.now()}-${Math.random()}`;
  const detail = "A run is created at once, whatever else goes on and whether or not the schedule is paused.";
  confirm(`Start ${name} now`, detail, null, "Start now", async () => {
    const { runs } = await post(`/schedules/${name}/trigger`, { idempotency_key: key });
    toast(started(runs));
  });
}

/** Asks whether a schedule is to be paused; `changed()` hears that it is. */
export function pause(name, changed) {
  const note = field("Note, for the history");
  confirm(`Pause ${name}`, "Its times pass unused until it is resumed; they do not count as missed.", note.node, "Pause", async () => {
    await post(`/schedules/${name}/pause`, { note: note.value().trim() });
    changed();
  });
}

/** Asks whether a schedule is to be resumed; `changed()` hears that it is. */
export function resume(name, changed) {
  let catchUp = "none";
  const times = select("Times that passed meanwhile", [["none", "Leave them out"], ["last", "Make up for the latest"],
    ["all", "Make up for all of the last 24 h, at most 100"]], catchUp, (value) => { catchUp = value; });
  confirm(`Resume ${name}`, "It starts runs at its times again.", times.node, "Resume", async () => {
    const { runs } = await post(`/schedules/${name}/resume`, { catch_up: catchUp });
    if (runs.length) toast(started(runs));
    changed();
  });
}

function cancel(id) {
  confirm(`Cancel run ${id}`, "It ends as soon as it can; what it has done stays.", null, "Cancel the run", async () => {
    const { outcome } = await post(`/runs/${id}/cancel`);
    toast({ requested: `Run ${id} was asked to end`, cancelled: `Run ${id} is cancelled` }[outcome] ?? `Run ${id} had ended before`);
  }, "danger");
}

/** Shows what a look says, or why it failed: only what is new. */
function failing(place, again) {
  let shown = null;
  return (error) => {
    if (shown === (error?.message ?? null)) return;
    shown = error?.message ?? null;
    fill(place, error && failure(error, again));
  };
}

const RUN = ["State", "Job", "Schedule", "Time that it is of", "Created", "Begun", "Ended", "Duration", "Attempts", "Owner", "Asked for"];

/** Opens a run: {node, close(), zone(), hear(run)}. `onClose` hears of the end. */
export function runDialog(id, onClose) {
  const facts = pairs(RUN);
  const trouble = h("div");
  const error = h("pre", { class: "jobs-why", hidden: true, tabindex: "0", "aria-label": "Error" });
  const bar = h("progress", { "aria-label": "Slices done" });
  const slices = h("div", { class: "stack", hidden: true }, bar, h("span", { class: "hint" }));
  const history = h("ol", { class: "jobs-history", id: "jobs-run-history" });
  const stop = button("Cancel this run", () => cancel(id), { kind: "danger", id: "jobs-run-cancel" });
  stop.hidden = true;
  let page = null;
  let isAsked = true;

  function happened({ at, event, slice, detail }) {
    const isText = event === "told" || detail.includes("\n");
    const text = detail && (isText ? h("pre", { tabindex: "0" }, detail) : h("span", { class: "soft" }, detail));
    return h("li", {}, h("div", { class: "row" }, h("strong", {}, words(event), slice === null ? "" : `, slice ${slice}`),
      h("time", { class: "hint", datetime: at }, time(at, "full"))), text);
  }

  function show(again = false) {
    const { run, history: all } = page;
    known.hidden = false;
    const begun = all.find((one) => one.event === "claimed")?.at;
    facts.set("State", state(run.state), run.cancel_requested && GOING.includes(run.state) ? " asked to end" : "");
    facts.set("Job", run.job);
    facts.set("Schedule", run.schedule ? opening(run.schedule, { schedule: run.schedule }) : "by hand");
    facts.set("Time that it is of", moment(run.of));
    facts.set("Created", moment(run.created));
    facts.set("Begun", moment(begun));
    facts.set("Ended", moment(run.ended));
    facts.set("Duration", took(run));
    facts.set("Attempts", number(run.attempts));
    facts.set("Owner", run.owner ?? NONE);
    facts.set("Asked for", h("code", {}, JSON.stringify(run.spec)));
    error.hidden = !run.error;
    say(error, run.error ?? "");
    stop.hidden = !GOING.includes(run.state);
    stop.disabled = run.cancel_requested;
    const count = Number(/^(\d+) slices$/.exec(all[0]?.detail ?? "")?.[1] ?? 0);
    const done = new Set(all.filter((one) => one.slice !== null && one.event === "succeeded").map((one) => one.slice)).size;
    slices.hidden = !count;
    Object.assign(bar, { max: count || 1, value: done });
    say(slices.lastChild, `${number(done)} of ${number(count)} slices done`);
    if (again) fill(history);
    history.append(...all.slice(history.children.length).map(happened));
  }

  const known = h("div", { class: "stack", hidden: true }, error, slices, facts.node, h("div", {}, stop),
    h("h3", {}, "History, ", zone()), history);
  const content = h("div", { class: "stack" }, trouble, known);
  const failed = failing(trouble, () => looking.now());
  const looking = poll(2_000, async (signal) => {
    if (!isAsked && !GOING.includes(page.run.state)) return;
    page = await get(`/runs/${encodeURIComponent(id)}`, {}, { signal });
    isAsked = false;
    if (!signal.aborted) show();
  }, failed);
  const opened = dialog(`Run ${id}`, content, { side: true, onClose: () => { looking.end(); onClose(); } });
  opened.node.id = "jobs-run";
  return { ...opened, zone: () => page && show(true), hear(run) {
    if (String(run.id) !== id) return;
    isAsked = true;
    looking.now();
  } };
}

const SCHEDULE = ["Job", "When", "Next", "State", "While a run goes on", "After missed times", "Attempts", "Time for one",
  "Priority", "Pool", "Asked for"];

/** Opens a schedule: {node, close(), zone(), hear(run)}. `onClose` hears of the end. */
export function scheduleDialog(name, onClose) {
  const facts = pairs(SCHEDULE);
  const trouble = h("div");
  const decisions = h("div");
  let page = null;
  let shown = "";

  function decided({ first, last, times, run, why, decided: at }) {
    const range = first === last ? "" : [h("br"), `to ${time(last, "both")}`];
    const count = times === null ? "more than can be counted" : times > 1 ? `${number(times)} times` : "";
    return h("tr", {}, h("td", {}, time(first, "both"), range, count && h("div", { class: "hint" }, count)),
      h("td", {}, run === null ? state("cancelled", "No run") : opening(`Run ${run}`, { run })),
      h("td", {}, why, h("div", { class: "hint" }, `decided ${time(at, "both")}`)));
  }

  function show(again = false) {
    const { schedule } = page;
    known.hidden = false;
    const word = (value) => (typeof value === "string" ? words(value) : JSON.stringify(value));
    facts.set("Job", schedule.job);
    facts.set("When", h("code", {}, schedule.cron), ` ${schedule.zone} `, h("span", { class: "hint" }, cronWords(schedule.cron)));
    facts.set("Next", moment(schedule.next));
    const since = schedule.paused_since;
    facts.set("State", since ? state("interrupted", `Paused since ${moment(since)}`) : state("online", "Active"));
    facts.set("While a run goes on", word(schedule.overlap));
    facts.set("After missed times", word(schedule.misfire));
    facts.set("Attempts", `${number(schedule.attempts)} at most`);
    facts.set("Time for one", duration(schedule.timeout_s));
    facts.set("Priority", number(schedule.priority));
    facts.set("Pool", schedule.pool ?? "none");
    facts.set("Asked for", h("code", {}, JSON.stringify(schedule.spec)));
    if (shown === JSON.stringify(page.decisions) && !again) return;
    shown = JSON.stringify(page.decisions);
    fill(decisions, page.decisions.length
      ? h("table", { class: "plain" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Due, ", zone()),
        ["Outcome", "Why"].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, page.decisions.map(decided)))
      : empty("Nothing decided yet", "Its first time is still to come."));
  }

  const looking = poll(5_000, async (signal) => {
    page = await get(`/schedules/${encodeURIComponent(name)}`, {}, { signal });
    if (!signal.aborted) show();
  }, failing(trouble, () => looking.now()));
  const known = h("div", { class: "stack", hidden: true }, facts.node, h("h3", {}, "Decisions about its latest times"), decisions);
  const content = h("div", { class: "stack" }, trouble, known);
  const opened = dialog(`Schedule ${name}`, content, { side: true, onClose: () => { looking.end(); onClose(); } });
  opened.node.id = "jobs-schedule";
  return { ...opened, zone: () => page && show(true), hear: () => looking.now() };
}
