// Sets the theme before the first paint; `prefs.js` changes it later.
(() => {
  try {
    const theme = localStorage.getItem("sentinel.theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // Without storage the system's setting holds.
  }
})();
