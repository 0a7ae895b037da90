// The jobs page: what starts when, what was started, and how that went. `run` or `schedule` in the address opens one.

import { change, link } from "./address.js";
import { get, poll, post } from "./api.js";
import { connection, events } from "./app.js";
import { button, card, dialog, empty, failure, field, loading, pairs, select, showState, state, toast } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { NONE, ago, duration, milliseconds, number, time, words, zoneName } from "./format.js";
import { table } from "./table.js";

const STATES = ["pending", "running", "interrupted", "succeeded", "failed", "cancelled"];
const GOING = ["pending", "running", "interrupted"];
const NEWEST = 300;
/** The service filters by no job: where one is asked for, more is looked through. */
const MOST = 1_000;

const zone = () => h("span", { data: { zone: "" } }, zoneName());
const whole = (at) => (milliseconds(at) === null ? NONE : `${time(at, "both")} ${zoneName()}`);

/** A link that opens a run or a schedule beside the page, whose filters stay. */
function opening(content, what, id) {
  return h("a", { href: link("jobs", what), id, on: { click: (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    change({ run: null, schedule: null, ...what });
  } } }, content);
}

/** What the most usual cron texts say. */
function cronWords(cron) {
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
function took({ created, ended, state: name }) {
  if (ended) return duration((milliseconds(ended) - milliseconds(created)) / 1000);
  return GOING.includes(name) ? h("span", { data: { since: created } }, since(created)) : NONE;
}

function since(at) {
  return duration(Math.max(Math.floor((Date.now() - milliseconds(at)) / 1000), 0));
}

/** Goes on counting what the elements in a part of the page count. */
function tick(part) {
  for (const one of part.querySelectorAll("[data-since]")) say(one, since(one.dataset.since));
  for (const one of part.querySelectorAll("[data-at]")) say(one, one.dataset.at ? ago(one.dataset.at) : "");
}

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

function trigger(name) {
  // One dialog starts one run, however often its button is pressed.
  const key = `dashboard-${Date.now()}-${Math.random()}`;
  const detail = "A run is created at once, whatever else goes on and whether or not the schedule is paused.";
  confirm(`Start ${name} now`, detail, null, "Start now", async () => {
    const { runs } = await post(`/schedules/${name}/trigger`, { idempotency_key: key });
    toast(started(runs));
  });
}

function pause(name, changed) {
  const note = field("Note, for the history");
  confirm(`Pause ${name}`, "Its times pass unused until it is resumed; they do not count as missed.", note.node, "Pause", async () => {
    await post(`/schedules/${name}/pause`, { note: note.value().trim() });
    changed();
  });
}

function resume(name, changed) {
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

const COLUMNS = ["Schedule", "Job", "When", "Next", "State", "Last run", "Actions"];

/** The schedules, whose rows stay the same elements, so that nobody's focus is lost. */
function schedulesView(changed) {
  const rows = new Map();
  const node = h("div", { class: "jobs-schedules" }, loading("Asking for the schedules", 464));

  function row(name) {
    const cells = COLUMNS.map((label, at) => h(at ? "td" : "th", { scope: at ? null : "row", data: { label } }));
    const [title, job, when, next, place, last, acts] = cells;
    const nextTime = h("span");
    const left = h("span", { class: "hint", data: { at: "" } });
    const active = h("div");
    const pausedAt = h("span", { class: "hint" });
    let paused = false;
    const turn = button("Pause", () => (paused ? resume : pause)(name, changed), { id: `jobs-pause-${name}` });
    title.append(opening(name, { schedule: name }, `jobs-schedule-${name}`));
    next.append(h("div", {}, nextTime), left);
    place.append(active, pausedAt);
    acts.append(h("div", { class: "row" }, button("Trigger", () => trigger(name), { id: `jobs-trigger-${name}` }), turn));
    let shownRun = null;
    return {
      node: h("tr", {}, cells),
      set(schedule, run, force) {
        paused = Boolean(schedule.paused_since);
        say(job, schedule.job);
        if (!when.firstChild || force) {
          fill(when, h("code", {}, schedule.cron), " ", schedule.zone, h("div", { class: "hint" }, cronWords(schedule.cron)));
        }
        say(nextTime, paused ? NONE : time(schedule.next, "both"));
        left.dataset.at = paused ? "" : schedule.next ?? "";
        showState(active, paused ? "interrupted" : "online", paused ? "Paused" : "Active");
        say(pausedAt, paused ? `since ${time(schedule.paused_since, "both")}` : "");
        say(turn, paused ? "Resume" : "Pause");
        const key = run ? `${run.id} ${run.state}` : "none";
        if (shownRun !== key) {
          shownRun = key;
          fill(last, run
            ? [opening(state(run.state), { run: run.id }),
              h("div", { class: "hint", data: { at: run.created } }, ago(run.created))]
            : NONE);
        }
        tick(next);
      },
    };
  }

  return {
    node,
    show(schedules, lastRuns, force) {
      if (!schedules.length) {
        fill(node, empty("No schedules", "sentinel up makes the usual ones; sentinel.toml says which."));
        return;
      }
      if (schedules.map((one) => one.name).join() !== [...rows.keys()].join() || !node.querySelector("table")) {
        rows.clear();
        for (const { name } of schedules) rows.set(name, row(name));
        const heads = COLUMNS.map((label) => h("th", { scope: "col" }, label, label === "Next" && [", ", zone()]));
        fill(node, h("table", { class: "plain", id: "jobs-schedules" }, h("thead", {}, h("tr", {}, heads)),
          h("tbody", {}, [...rows.values()].map((one) => one.node))));
      }
      for (const schedule of schedules) rows.get(schedule.name).set(schedule, lastRuns.get(schedule.name), force);
    },
    failed: (error) => fill(node, failure(error, changed)),
  };
}

function runsView() {
  const column = (label, width, cell, end = false) => ({ key: label, label, width: `${width}px`, cell, end });
  const nothing = h("div");
  const place = h("div", { class: "jobs-runs" }, loading("Asking for the runs", 200));
  const list = table({
    label: "Runs, newest first", id: "jobs-runs", height: 480,
    columns: [
      column("Run", 48, (run) => h("span", { data: { run: run.id } }, run.id), true),
      column("State", 120, (run) => state(run.state)),
      column("Job", 96, (run) => run.job),
      column("Created", 152, (run) => time(run.created, "both")),
      column("Duration", 96, took, true),
      column("Schedule", 96, (run) => run.schedule ?? "by hand"),
      column("Attempts", 64, (run) => number(run.attempts), true),
      column("Owner", 128, (run) => run.owner ?? NONE),
      { label: "Error", width: "minmax(160px, 1fr)", cell: ({ error }) => h("span", { class: "jobs-error", title: error }, error ?? "") },
    ],
    onOpen: (run) => change({ run: run.id, schedule: null }),
  });
  let shown = [];
  const rowOf = (id) => list.node.querySelector(`[data-run="${id}"]`)?.closest(".table-row");

  return {
    node: place,
    /** Shows runs; who has scrolled or stands in a row stays there. */
    show(runs, why) {
      const focused = document.activeElement?.closest(".table-row")?.querySelector("[data-run]")?.dataset.run;
      if (!list.node.isConnected) fill(place, list.node, nothing);
      const scroller = list.node.firstChild;
      const more = runs.findIndex((run) => run.id === shown[0]?.id);
      shown = runs;
      list.node.hidden = !runs.length;
      list.set(runs);
      if (more > 0 && scroller.scrollTop > 0) scroller.scrollTop += more * 32;
      if (focused) rowOf(focused)?.focus({ preventScroll: true });
      if (runs.length) fill(nothing);
      else fill(nothing, empty("No runs", why));
    },
    focus: (id) => rowOf(id)?.focus({ preventScroll: true }),
    failed: (error, again) => fill(place, failure(error, again)),
  };
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

function runDialog(id, onClose) {
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
    facts.set("Time that it is of", whole(run.of));
    facts.set("Created", whole(run.created));
    facts.set("Begun", whole(begun));
    facts.set("Ended", whole(run.ended));
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

function scheduleDialog(name, onClose) {
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
    facts.set("Next", whole(schedule.next));
    const since = schedule.paused_since;
    facts.set("State", since ? state("interrupted", `Paused since ${whole(since)}`) : state("online", "Active"));
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

/** Shows the jobs page. */
export function mount(root, first) {
  let query = first;
  let schedules = null;
  let runs = new Map();
  let open = null;
  let asking = new AbortController();
  let asked = 0;
  /** What was heard while the runs were asked for: newer than the answer. */
  let heard = new Map();
  const lastRuns = new Map();

  const polling = poll(30_000, askSchedules, (error) => { if (error) schedulesList.failed(error); });
  const schedulesList = schedulesView(() => polling.now());
  const runsList = runsView();
  const stateFilter = select("State", [["", "All"], ...STATES.map((name) => [name, words(name)])], "", (value) => change({ state: value }));
  const jobFilter = select("Job", [["", "All"]], "", (value) => change({ job: value }));
  stateFilter.node.id = "jobs-state";
  jobFilter.node.id = "jobs-job";
  root.append(card("Schedules", { id: "jobs-schedules-card" }, schedulesList.node),
    card("Runs", { id: "jobs-runs-card", hint: h("span", {}, "newest first, ", zone()),
      actions: [stateFilter.node, jobFilter.node] }, runsList.node));

  async function askSchedules(signal) {
    asked = Date.now();
    const found = await get("/schedules", {}, { signal });
    if (signal.aborted) return;
    schedules = found;
    showSchedules();
  }

  async function askRuns() {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    heard = new Map();
    const limit = query.job ? MOST : NEWEST;
    try {
      const [found, all] = await Promise.all([get("/runs", { state: query.state, limit }, { signal }),
        query.state ? get("/runs", { limit: NEWEST }, { signal }) : null]);
      if (signal.aborted) return;
      runs = new Map([...found.map((run) => [run.id, run]), ...heard]);
      for (const run of [...(all ?? found)].reverse().concat([...heard.values()])) note(run);
      showRuns();
      showSchedules();
    } catch (error) {
      if (!signal.aborted) runsList.failed(error, askRuns);
    }
  }

  function note(run) {
    if (run.schedule && run.id >= (lastRuns.get(run.schedule)?.id ?? 0)) lastRuns.set(run.schedule, run);
  }

  function showSchedules(force = false) {
    if (schedules) schedulesList.show(schedules, lastRuns, force);
    if (schedules || runs.size) {
      const jobs = new Set([...(schedules ?? []), ...runs.values()].map((one) => one.job).concat(query.job ?? []));
      const names = [...jobs].sort();
      if (jobFilter.shown !== names.join()) jobFilter.options([["", "All"], ...names.map((name) => [name, name])]);
      jobFilter.shown = names.join();
      jobFilter.set(query.job);
    }
  }

  function showRuns() {
    const kept = [...runs.values()].filter((run) => (!query.job || run.job === query.job) && (!query.state || run.state === query.state));
    runsList.show(kept.sort((one, other) => other.id - one.id),
      query.job || query.state ? "None of the newest is in this state and of this job." : "The first schedule that is due starts one.");
  }

  function openWhatIsNamed() {
    const key = query.run ? `run ${query.run}` : query.schedule ? `schedule ${query.schedule}` : null;
    if ((open?.key ?? null) === key) return;
    const before = open;
    open = null;
    before?.view.close();
    if (!key) return;
    const opening = { key };
    open = opening;
    const { run } = query;
    const onClose = () => {
      if (open !== opening) return;
      open = null;
      change({ run: null, schedule: null });
      if (run) runsList.focus(run);
    };
    opening.view = run ? runDialog(run, onClose) : scheduleDialog(query.schedule, onClose);
  }

  const listening = new AbortController();
  const hear = (kind, listener) => events.addEventListener(kind, listener, { signal: listening.signal });
  let waiting = 0;
  hear("run", ({ detail: run }) => {
    heard.set(run.id, run);
    runs.set(run.id, run);
    note(run);
    open?.view.hear(run);
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      showRuns();
      polling.now();
      showSchedules();
    }, 100);
  });
  hear("missed", askRuns);
  let wasLive = connection.state === "live" || connection.state === "connecting";
  hear("connection", ({ detail }) => {
    const isLive = detail.state === "live";
    if (isLive && !wasLive) askRuns();
    wasLive = isLive;
  });
  const ticking = setInterval(() => {
    tick(root);
    if (open) tick(open.view.node);
    const isDue = schedules?.some((one) => !one.paused_since && milliseconds(one.next) < Date.now() - 1_000);
    if (isDue && Date.now() - asked > 3_000) polling.now();
  }, 1000);

  stateFilter.set(query.state);
  askRuns();
  openWhatIsNamed();
  return {
    update(to) {
      const before = query;
      query = to;
      stateFilter.set(query.state);
      jobFilter.set(query.job);
      if (before.state !== query.state || before.job !== query.job) askRuns();
      openWhatIsNamed();
    },
    zone() {
      showSchedules(true);
      showRuns();
      open?.view.zone();
    },
    end() {
      listening.abort();
      asking.abort();
      clearInterval(ticking);
      clearTimeout(waiting);
      polling.end();
      const view = open?.view;
      open = null;
      view?.close();
    },
  };
}
