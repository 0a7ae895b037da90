// Manual test: what would the model say of these five values, and why?

import { change } from "./address.js";
import { get, key, post } from "./api.js";
import { events } from "./app.js";
import { button, card, failure, gauge, loading, scroller, select, severity, shares, state, toast, waiting } from "./controls.js";
import { fill, h, say, svg } from "./dom.js";
import { FEATURE_NAMES, FEATURES, number, score, time, zoneName } from "./format.js";
import { featureControl, PRESETS, trainingRange } from "./test-sliders.js";

const SETTLE_MS = 150;
const WAIT_MS = 2_000;

/** The gauge of a score: zero, where the verdict changes, stands at the top; typical rows left, the rarest right. */
function scoreGauge() {
  const dial = gauge("Anomaly score");
  const picture = dial.node.querySelector("svg");
  const tick = svg("line", { class: "test-tick" });
  const top = svg("line", { class: "test-tick test-tick-zero", x1: 100, x2: 100, y1: 8, y2: 32 });
  picture.append(top, tick);
  const ends = [h("span"), h("span", {}, "│ 0 = verdict ┊ alert"), h("span")];
  return {
    node: h("div", {}, dial.node, h("div", { class: "test-ends hint" }, ends)),
    set(found, typical) {
      const share = (of) => (of >= 0 ? 0.5 - 0.5 * Math.min(of / typical, 1) : 0.5 + 0.5 * Math.min(of / found.training_minimum, 1));
      dial.set(share(found.anomaly_score), score(found.anomaly_score), tone(found));
      const angle = Math.PI * (1 - share(found.alert_threshold));
      const along = (radius) => [100 + radius * Math.cos(angle), 100 - radius * Math.sin(angle)];
      [["x1", "y1", 70], ["x2", "y2", 90]].forEach(([x, y, radius]) => {
        const place = along(radius);
        tick.setAttribute(x, place[0]);
        tick.setAttribute(y, place[1]);
      });
      say(ends[0], `typical ${score(typical)}`);
      say(ends[2], `least ${score(found.training_minimum)}`);
    },
  };
}

/** The z-scores that are an alert whatever the anomaly score. */
const outOfReach = ({ features }) =>
  features.filter(({ value, alert_low: low, alert_high: high }) => typeof low === "number" && (value < low || value > high));

/** The z-score of a volume that is worth a notice; undefined where it is not. */
const rareVolume = ({ features }) =>
  features.find(({ value, notice_above: above }) => typeof above === "number" && value > above);

const isBeyond = (found) => found.anomaly_score < found.alert_threshold || outOfReach(found).length > 0;

function tone(found) {
  if (!found.is_anomaly) return "good";
  return isBeyond(found) ? "bad" : "fair";
}

/** Whether an event with this score would be an alert: as the service raises them. */
function alertSentence(found) {
  const { anomaly_score: value, alert_threshold: limit, training_minimum: least } = found;
  const [far] = outOfReach(found);
  if (far) {
    return `An alert at once: ${FEATURES[far.feature].name} lies outside of ${number(far.alert_low, 1)} to ${number(far.alert_high, 1)} σ, ` +
      "where calm training rows are.";
  }
  const rare = value >= limit && rareVolume(found);
  if (rare) return `A notice, and no more: ${FEATURES[rare.feature].name} lies above ${number(rare.notice_above, 1)} σ, which is rare; ` +
    `the score is not below the alert threshold ${score(limit)}.`;
  if (value >= limit) return `No alert: the score is not below the alert threshold ${score(limit)}.`;
  if (value < least) {
    return `An alert at once: the score is below ${score(least)}, the least of the training rows, and the alert threshold ${score(limit)}.`;
  }
  return `An alert once another event of the market confirms it: the score is below the alert threshold ${score(limit)}, ` +
    `not below ${score(least)}, the least of the training rows.`;
}

function alertSeverity(found) {
  if (found.anomaly_score < found.training_minimum) return "critical";
  const isHigh = found.anomaly_score < (found.alert_threshold + found.training_minimum) / 2 || outOfReach(found).length > 0;
  return isHigh ? "high" : isBeyond(found) ? "warning" : "notice";
}

function pathSentence({ mean_depth: mean, training_depth: training, expected_depth: expected, trees, isolated_within_3_splits: early }) {
  const side = mean < training ? "sooner" : "later";
  return `Across ${number(trees)} trees it takes ${number(mean, 2)} splits on average to set this row apart, ${side} than the ` +
    `${number(training, 2)} of training rows (${number(expected, 2)} in theory); in ${number(early)} trees at most 3 splits are enough.`;
}

/** Fills the page. */
export function mount(root, query) {
  let record = null;
  let typical = 0.2;
  let symbol = "";
  let symbols = [];
  let timer = 0;
  let retry = 0;
  let counts = false;
  let asked = null;
  let ended = false;
  let looking = null;
  let scoredAt = null;
  let writing = false;
  const controls = FEATURE_NAMES.map((feature, at) => featureControl(feature, at, changed));
  const presets = PRESETS.map(([name, label, of]) => button(label, () => usePreset(of), { id: `test-preset-${name}`, pressed: false }));
  const markets = select("Market", [], "", (chosen) => { setSymbol(chosen); keep(); schedule(false); }, "test-symbol");
  const symbolProblem = h("p", { class: "test-problem", role: "alert" });
  const scoreButton = button("Score", () => schedule(true, 0), { kind: "primary", id: "test-score" });
  const rangeNote = h("span", { class: "hint" });
  const rangeProblem = h("div");
  const dial = scoreGauge();
  const verdict = h("div", { class: "test-verdict", id: "test-verdict", "aria-live": "polite" });
  const counted = h("p", { class: "hint", id: "test-counted" });
  const result = h("div", { class: "test-result" }, loading("Asking the model", 280));
  const why = h("div", { class: "test-why" }, loading("Asking the model", 240));
  const curl = h("pre", { class: "test-curl", id: "test-curl", tabindex: "0", "aria-label": "The request as a command" });
  const answer = h("div", { class: "stack" }, dial.node, verdict, counted);
  const version = h("a", { id: "test-model", href: "#/models" });

  fill(root,
    h("div", { class: "toolbar" },
      h("div", { class: "field" }, h("span", {}, "Preset"),
        h("div", { class: "row test-presets", role: "group", "aria-label": "Presets" }, presets)),
      h("div", {}, markets.node, symbolProblem),
      h("div", { class: "toolbar-end" }, scoreButton)),
    h("div", { class: "grid" },
      card("Features", { className: "span-7", hint: rangeNote }, controls.map((one) => one.node), rangeProblem),
      card("Verdict", { className: "span-5", actions: version }, result),
      card("Why", { className: "span-7" }, why),
      card("Request", { className: "span-5", actions: button("Copy", copy, { id: "test-copy" }) }, curl,
        h("p", { class: "hint" }, "A preset, a finished slider move and Score are counted in the statistics as a manual prediction. " +
          "While a slider moves, the preview by /explain is not."))));

  const values = () => controls.map((one) => one.value());
  const body = () => ({ symbol, ...Object.fromEntries(FEATURE_NAMES.map((feature, at) => [feature, values()[at]])) });
  const presetOf = () => PRESETS.find(([, , of]) => of.every((value, at) => value === values()[at]))?.[0];

  function usePreset(of) {
    controls.forEach((one, at) => one.set(of[at]));
    keep();
    schedule(true);
  }

  function setSymbol(to) {
    symbol = to;
    const known = symbols.includes(symbol) || !symbol ? symbols : [...symbols, symbol];
    markets.options(known.map((one) => [one, symbols.includes(one) ? one : `${one} (not in the training)`]));
    markets.set(symbol);
    controls.at(-1).unit(symbol.split("-")[0]);
  }

  /** Takes over what a slider or a field says now; at the end of a slider move it is scored and counted. */
  function changed(isEnd) {
    if (isEnd) keep();
    schedule(isEnd);
  }

  /** Writes what is set into the address. */
  function keep() {
    const preset = presetOf();
    const own = preset ? FEATURE_NAMES.map(() => null) : values().map((value) => (Number.isFinite(value) ? value : null));
    writing = true;
    change({ preset, symbol, ...Object.fromEntries(FEATURE_NAMES.map((feature, at) => [feature, own[at]])) });
    writing = false;
  }

  function schedule(count, after = SETTLE_MS) {
    counts ||= count;
    drawRequest();
    clearTimeout(timer);
    timer = setTimeout(ask, after);
  }

  function drawRequest() {
    const preset = presetOf();
    presets.forEach((one, at) => one.setAttribute("aria-pressed", String(PRESETS[at][0] === preset)));
    const authorization = key() ? ` \\\n  -H "Authorization: Bearer $SENTINEL_KEY"` : "";
    say(curl, `curl ${location.origin}/predict${authorization} \\\n  -H 'Content-Type: application/json' \\\n  -d '${
      JSON.stringify(body(), null, 1).replace(/\n\s*/g, "\n    ").replace(/\n\s*}$/, "\n  }")}'`);
  }

  async function ask() {
    asked?.abort();
    const asking = new AbortController();
    asked = asking;
    const count = counts;
    counts = false;
    if (!symbol) return;
    clearTimeout(retry);
    const wanted = body();
    const isOld = () => ended || asked !== asking;
    keep();
    result.setAttribute("aria-busy", "true");
    try {
      // A prediction that was asked for is counted, even if the next move makes its answer an outdated one.
      const [explained, predicted] = await Promise.all([
        post("/explain", wanted, { signal: asking.signal }), count ? post("/predict", wanted) : null]);
      if (!isOld()) draw(explained, predicted);
    } catch (error) {
      if (!isOld()) refused(error);
    } finally {
      if (!isOld()) result.removeAttribute("aria-busy");
    }
  }

  function problems(parts = []) {
    const of = (field) => parts.filter((part) => part.field === field).map((part) => part.detail).join("; ");
    controls.forEach((one, at) => one.problem(of(FEATURE_NAMES[at])));
    say(symbolProblem, of("symbol"));
  }

  function refused(error) {
    if (error.status === 503) return void wait(error.message);
    problems(error.parts);
    fill(result, failure(error, () => schedule(false, 0)));
    fill(why);
  }

  function draw(found, predicted) {
    problems();
    // Another model answers than was looked up; in a while, as the registry may know of it before the scorer does.
    if (found.model_version !== record?.version) retry = setTimeout(look, WAIT_MS);
    const beyond = isBeyond(found);
    dial.set(found, typical);
    fill(verdict, state(found.is_anomaly ? "failed" : "online", found.is_anomaly ? "Anomaly" : "Normal"),
      (beyond || rareVolume(found)) && severity(alertSeverity(found)),
      h("p", {}, `${found.symbol} scores ${score(found.anomaly_score)}: ${found.is_anomaly ? "below" : "not below"} zero.`),
      h("p", { id: "test-alert" }, alertSentence(found)));
    scoredAt = predicted && new Date();
    sayCounted();
    fill(version, `Model version ${found.model_version}`);
    version.href = `#/models?version=${found.model_version}`;
    if (answer.parentNode !== result) fill(result, answer);
    const table = shares(found.features);
    table.querySelectorAll("tbody tr").forEach((row, at) => { row.id = `test-share-${found.features[at].feature}`; });
    fill(why, scroller("Shares by feature", table),
      h("p", { class: "soft", id: "test-path" }, pathSentence(found.path)));
  }

  function sayCounted() {
    say(counted, scoredAt
      ? `Scored ${time(scoredAt)} ${zoneName()}, counted as a manual prediction.`
      : "Preview, not counted as a prediction. Score counts it.");
  }

  /** Before the first model: how far it is, until it is there. */
  async function wait(text) {
    clearTimeout(retry);
    if (ended) return;
    fill(why);
    say(version, "");
    const parts = await get("/system-status").catch(() => null);
    if (ended) return;
    fill(result, waiting(parts?.services.find((part) => part.name === "Model")?.details ?? text));
    scoreButton.disabled = true;
    retry = setTimeout(look, WAIT_MS);
  }

  /** Looks up the model that answers, its markets and the ranges of its training. */
  async function look() {
    looking?.abort();
    looking = new AbortController();
    const { signal } = looking;
    clearTimeout(retry);
    try {
      const champion = (await get("/models", {}, { signal })).find((model) => model.status === "champion");
      if (!champion) return void wait();
      const page = await get(`/models/${champion.version}`, {}, { signal });
      if (signal.aborted) return;
      record = page.model;
      typical = page.metrics.training?.scores.quantiles.find(([share]) => share === 0.5)?.[1] || typical;
      symbols = record.inputs.symbols;
      scoreButton.disabled = false;
      setSymbol(symbol || (symbols.includes("BTC-USDT") ? "BTC-USDT" : symbols[0]));
      schedule(false, 0);
      await drawRange(signal);
    } catch (error) {
      if (signal.aborted || ended) return;
      fill(result, failure(error, look));
      fill(why);
    }
  }

  async function drawRange(signal) {
    try {
      const found = await trainingRange(record, signal);
      if (signal.aborted) return;
      FEATURE_NAMES.forEach((feature, at) => controls[at].range(found.of[feature]));
      say(rangeNote, `Scales: ${found.note}; band = 5 to 95 %, line = median`);
      fill(rangeProblem);
    } catch (error) {
      if (signal.aborted) return;
      controls.forEach((one) => one.range());
      say(rangeNote, "Scales hold the presets only");
      fill(rangeProblem, failure(error, () => drawRange(signal)));
    }
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(curl.textContent);
      toast("Copied");
    } catch {
      // Only pages over HTTPS or of this machine may write to the clipboard.
      getSelection().selectAllChildren(curl);
      toast("Selected: copy it with Ctrl+C");
    }
  }

  /** Sets what an address says; values that it leaves out stay those of its preset, or of the normal row. */
  function setFrom(of) {
    const [, , base] = PRESETS.find(([name]) => of.preset && name.includes(of.preset)) ?? PRESETS[0];
    FEATURE_NAMES.forEach((feature, at) => {
      const own = of[feature] === undefined ? NaN : Number(of[feature]);
      controls[at].set(Number.isFinite(own) ? own : base[at]);
    });
    setSymbol(of.symbol ?? symbol);
    drawRequest();
  }

  const onStatus = ({ detail }) => {
    const text = detail.services.find((part) => part.name === "Model")?.details ?? "";
    const now = Number(/version (\d+)/.exec(text)?.[1]);
    if (now && now !== record?.version) look();
  };
  events.addEventListener("status", onStatus);
  setFrom(query);
  look();

  return {
    update(of) {
      if (writing) return;
      setFrom(of);
      schedule(false);
    },
    end() {
      ended = true;
      clearTimeout(timer);
      clearTimeout(retry);
      asked?.abort();
      looking?.abort();
      events.removeEventListener("status", onStatus);
    },
    zone: sayCounted,
  };
}
