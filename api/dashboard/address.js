// The address says what is shown, so that a view can be sent to somebody: `#/live?symbol=BTC-USDT&window=15m`.

/** The page and its settings that the address names. */
export function read() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: path || "status", query: Object.fromEntries(new URLSearchParams(query)) };
}

/** The address of a page with these settings; those that are null, undefined or empty are left out. */
export function link(page, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(kept.map(([name, value]) => [name, String(value)])).toString();
  return `#/${page}${text ? `?${text}` : ""}`;
}

/** Changes settings of the page that is shown; the page hears of it as of any other change of the address. */
export function change(settings, { replace = true } = {}) {
  const { page, query } = read();
  const hash = link(page, { ...query, ...settings });
  if (hash === location.hash) return;
  if (replace) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}
