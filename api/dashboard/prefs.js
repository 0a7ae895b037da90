// What a person prefers, on this device: theme, time zone. Everything else is in the address.

const listeners = new Set();

function stored(name, allowed) {
  try {
    const value = localStorage.getItem(`sentinel.${name}`);
    return allowed.includes(value) ? value : allowed[0];
  } catch {
    return allowed[0];
  }
}

/** `theme`: system, light or dark. `zone`: utc or local. */
export const prefs = {
  theme: stored("theme", ["system", "light", "dark"]),
  zone: stored("zone", ["utc", "local"]),
};

/** Prefers something else. */
export function prefer(name, value) {
  prefs[name] = value;
  try {
    localStorage.setItem(`sentinel.${name}`, value);
  } catch {
    // It holds until the page is closed.
  }
  if (name === "theme") {
    if (value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = value;
  }
  for (const listener of listeners) listener(name);
}

/** Calls back when a preference changes, with its name, and "theme" when the system's theme does; returns how to stop. */
export function onPreference(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const listener of listeners) listener("theme");
});
