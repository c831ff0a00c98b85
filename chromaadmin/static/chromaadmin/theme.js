/* Light, dark or as the system. Runs before the page is drawn, so that nothing flashes; the cookie lets the server
   write the same choice into the next page. */
(() => {
  "use strict";
  const NAME = "chromaadmin_theme";
  const THEMES = ["light", "auto", "dark"];
  const root = document.documentElement;

  const stored = () => {
    try {
      const value = localStorage.getItem(NAME);
      return THEMES.includes(value) ? value : null;
    } catch {
      return null; // storage may be forbidden; the cookie and the system's wish remain
    }
  };

  const remember = (theme) => {
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `${NAME}=${theme}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
    try {
      localStorage.setItem(NAME, theme);
    } catch {
      // the cookie alone is enough
    }
  };

  const apply = (theme) => {
    root.dataset.theme = theme;
    for (const button of document.querySelectorAll("[data-theme-choice]")) {
      button.setAttribute("aria-pressed", String(button.dataset.themeChoice === theme));
    }
  };

  const chosen = stored();
  if (chosen && chosen !== root.dataset.theme) {
    root.dataset.theme = chosen;
    remember(chosen);
  }

  document.addEventListener("DOMContentLoaded", () => apply(root.dataset.theme || "auto"));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-theme-choice]");
    if (!button) return;
    remember(button.dataset.themeChoice);
    apply(button.dataset.themeChoice);
  });
  window.addEventListener("storage", (event) => {
    if (event.key === NAME && THEMES.includes(event.newValue)) apply(event.newValue);
  });
})();
