// The jobs page: what starts when, what was started, and how that went. `run` or `schedule` in the address opens one.

import { change } from "./address.js";
import { get, poll } from "./api.js";
import { connection, events } from "./app.js";
import { button, card, empty, failure, loading, select, showState, state } from "./controls.js";
import { fill, h, say } from "./dom.js";
import { NONE, ago, milliseconds, number, time, words } from "./format.js";
import { pause, resume, runDialog, scheduleDialog, trigger } from "./jobs-dialogs.js";
import { cronWords, opening, tick, took, zone } from "./jobs-parts.js";
import { table } from "./table.js";

const STATES = ["pending", "running", "interrupted", "succeeded", "failed", "cancelled"];
const NEWEST = 300;
/** The service filters by no job: where one is asked for, more is looked through. */
const MOST = 1_000;

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
