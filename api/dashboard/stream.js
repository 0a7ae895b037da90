// Follows `GET /stream`. Not by `EventSource`, which can send no API key: by `fetch`, with the same rules. A connection that
// breaks is made again with growing pauses and goes on behind the last event (`Last-Event-ID`); one that says nothing for
// longer than the service is ever silent counts as stale and is made again.

import { headers, path, Refused } from "./api.js";

/** The service says something every 15 s at least. */
const STALE_MS = 35_000;

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

/**
 * Follows events of some kinds, of one market where `symbol` is given, alerts of `severity` at least: warnings, if not said.
 *
 * `onEvent(kind, data)` hears each, `missed` among the kinds; `onState({state, since, retryAt, error})` hears how the
 * connection is: connecting, live, stale, broken or refused (an API key is needed). The function that is returned ends it.
 */
export function follow({ kinds, symbol, severity, onEvent, onState }) {
  const follower = new Follower({ kinds: kinds.join(","), symbol, severity }, onEvent, onState);
  follower.run();
  return () => follower.end();
}

class Follower {
  constructor(parameters, onEvent, onState) {
    this.address = path("/stream", parameters);
    this.onEvent = onEvent;
    this.onState = onState;
    this.lastId = null;
    this.ended = false;
    this.pause = FIRST_PAUSE_MS;
    this.wake = () => {};
    this.online = () => this.wake();
    window.addEventListener("online", this.online);
  }

  end() {
    this.ended = true;
    window.removeEventListener("online", this.online);
    this.abort?.abort();
    this.wake();
  }

  tell(state, more = {}) {
    if (!this.ended) this.onState({ state, since: Date.now(), ...more });
  }

  async run() {
    this.tell("connecting");
    while (!this.ended) {
      let error = "the connection ended";
      try {
        await this.connection();
      } catch (failure) {
        if (failure instanceof Refused && failure.status === 401) {
          this.tell("refused", { error: failure.message });
          return;
        }
        error = failure.message;
      }
      if (this.ended) return;
      this.tell(this.isStale ? "stale" : "broken", { error, retryAt: Date.now() + this.pause });
      await this.rest();
    }
  }

  /** Waits for the next try: until the pause is over, or the machine is online again. */
  async rest() {
    const jittered = this.pause * (0.75 + Math.random() / 2);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, jittered);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
  }

  async connection() {
    this.abort = new AbortController();
    this.isStale = false;
    this.watch();
    try {
      const response = await fetch(this.address, {
        headers: headers({ Accept: "text/event-stream", ...(this.lastId ? { "Last-Event-ID": this.lastId } : {}) }),
        signal: this.abort.signal,
        cache: "no-store",
      });
      if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
      this.tell("live");
      this.pause = FIRST_PAUSE_MS;
      await this.read(response.body.getReader());
    } finally {
      clearTimeout(this.timer);
    }
  }

  watch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.isStale = true;
      this.abort.abort();
    }, STALE_MS);
  }

  async read(reader) {
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.ended) return;
      this.watch();
      text += decoder.decode(value, { stream: true });
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) this.take(event);
    }
  }

  /** Takes in one event; a comment that keeps the connection alive is none. */
  take(text) {
    const event = { data: "" };
    for (const line of text.split("\n")) {
      const colon = line.indexOf(":");
      if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
    }
    if (!event.event) return;
    if (event.id) this.lastId = event.id;
    this.onEvent(event.event, JSON.parse(event.data));
  }
}
