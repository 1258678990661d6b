// Light and dark: the system's choice until a person makes one. The server draws the chart, so it is told.
(() => {
  const media = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try { return localStorage.getItem("hometwin-theme"); } catch { return null; }
  };
  const theme = () => chosen() || (media.matches ? "dark" : "light");
  const tell = (name, tries) => {
    if (window.emitEvent && window.socket && window.socket.connected) window.emitEvent("hometwin-theme", name);
    else if (tries > 0) setTimeout(() => tell(name, tries - 1), 100);
  };
  const apply = () => {
    const name = theme();
    document.documentElement.dataset.theme = name;
    document.cookie = `hometwin_theme=${name}; path=/; max-age=31536000; samesite=strict`;
    if (window.setDark) window.setDark(name === "dark");
    tell(name, 100);
  };
  document.documentElement.dataset.theme = theme();
  media.addEventListener("change", apply);
  window.addEventListener("load", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#theme")) return;
    try { localStorage.setItem("hometwin-theme", theme() === "dark" ? "light" : "dark"); } catch { return; }
    apply();
  });
})();
