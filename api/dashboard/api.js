// Asks the service. Every answer that is no success becomes a `Refused` with the problem's own words.

const KEY = "sentinel.key";

/** What the service, or the way to it, refused. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the service answered ${status}`);
    this.name = "Refused";
    /** HTTP status; 0 where there was no answer. */
    this.status = status;
    /** The parts that are wrong: [{field, detail}]. */
    this.parts = problem.errors ?? [];
    this.requestId = problem.request_id ?? null;
  }
}

/** Tells `key-needed` (an API key is asked for) and `simulated` (the data are made up). */
export const told = new EventTarget();

/** The API key that was given, for as long as this tab is open. */
export function key() {
  return sessionStorage.getItem(KEY);
}

/** Takes another API key; null forgets it. */
export function useKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/** The headers that every request has. */
export function headers(more = {}) {
  return key() ? { ...more, Authorization: `Bearer ${key()}` } : more;
}

/** A path with parameters; those that are null, undefined or empty are left out. */
export function path(base, parameters = {}) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return kept.length ? `${base}?${new URLSearchParams(kept.map(([name, value]) => [name, String(value)]))}` : base;
}

/** Sends a request; the response, where it is a success. `options` are those of `fetch`. */
export async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { detail: "the service does not answer; is it running?" });
  }
  if (response.headers.get("X-Simulated") === "true") told.dispatchEvent(new Event("simulated"));
  if (response.ok) return response;
  if (response.status === 401) told.dispatchEvent(new Event("key-needed"));
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // The status says it.
  }
  throw new Refused(response.status, problem);
}

/** The JSON answer to GET. */
export async function get(base, parameters = {}, options = {}) {
  return (await ask(path(base, parameters), options)).json();
}

/** The JSON answer to POST with a JSON body. */
export async function post(address, body = {}, options = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(address, { ...options, method: "POST", headers, body: JSON.stringify(body) })).json();
}

/**
 * Looks again and again while the page is seen, one look at a time: {now(), end()}. `look(signal)` asks and shows;
 * `failed(error)` hears why a look failed, and null when one did not. A look is followed by another at once where `now()`
 * was called during it: it may have asked too early.
 */
export function poll(milliseconds, look, failed) {
  const ended = new AbortController();
  let timer = 0;
  let goesOn = false;
  let isWanted = false;
  async function turn() {
    isWanted = goesOn;
    if (goesOn || document.hidden || ended.signal.aborted) return;
    clearTimeout(timer);
    goesOn = true;
    try {
      await look(AbortSignal.any([ended.signal, AbortSignal.timeout(20_000)]));
      if (!ended.signal.aborted) failed(null);
    } catch (error) {
      if (!ended.signal.aborted) failed(error);
    }
    goesOn = false;
    timer = setTimeout(turn, isWanted ? 0 : milliseconds);
  }
  document.addEventListener("visibilitychange", turn, { signal: ended.signal });
  turn();
  return {
    now: turn,
    end() {
      ended.abort();
      clearTimeout(timer);
    },
  };
}

/** The rows of a statement: [{column: value}]. */
export async function sql(statement, { limit = 10_000, signal } = {}) {
  return (await post(path("/sql", { limit }), { sql: statement }, { signal })).rows;
}

/** Saves an answer as a file, whole or not at all. */
export async function download(address, fileName) {
  save(await (await ask(address)).blob(), fileName);
}

/** Saves what was fetched as a file. */
export function save(blob, fileName) {
  const url = URL.createObjectURL(blob);
  const anchor = document.createElement("a");
  Object.assign(anchor, { href: url, download: fileName });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
