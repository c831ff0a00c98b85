/* The keyboard: ? for help, / for search, g and a letter to go somewhere, j and k through the rows of a table. */
(() => {
  "use strict";
  const WAIT = 1200;
  let went = 0; // when g was pressed

  const typing = (target) =>
    target.isContentEditable || target.matches?.("input:not([type=checkbox], [type=radio]), textarea, select");

  const rowsOf = () => [...document.querySelectorAll("table[data-rows] > tbody > tr")].filter((row) => row.offsetParent);

  const moveRow = (step) => {
    const near = document.querySelector(`[data-record-${step > 0 ? "next" : "previous"}]`);
    if (near) {
      near.click();
      return;
    }
    const rows = rowsOf();
    if (!rows.length) return;
    const at = rows.findIndex((row) => row.classList.contains("is-cursor") || row.contains(document.activeElement));
    const next = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step))];
    for (const row of rows) row.classList.toggle("is-cursor", row === next);
    const link = next.querySelector("a[href], button, input");
    if (link) {
      link.focus({ preventScroll: true });
    } else {
      next.tabIndex = -1;
      next.focus({ preventScroll: true });
    }
    next.scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || typing(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const key = event.key;
    if (went && event.timeStamp - went < WAIT) {
      went = 0;
      const link = [...document.querySelectorAll("[data-nav]")].find((one) => one.dataset.nav[0] === key);
      if (link) {
        event.preventDefault();
        link.click();
        return;
      }
    }
    went = 0;
    if (key === "g") {
      went = event.timeStamp || 1;
    } else if (key === "?") {
      event.preventDefault();
      document.getElementById("keys")?.showModal();
    } else if (key === "/") {
      const search = document.getElementById("search") ?? document.querySelector(".filterbox input");
      if (search) {
        event.preventDefault();
        search.focus();
        search.select();
      }
    } else if (key === "j" || key === "k") {
      event.preventDefault();
      moveRow(key === "j" ? 1 : -1);
    } else if (key === "Escape") {
      document.querySelector("[data-record-close]")?.click();
    }
  });

  document.addEventListener("focusin", (event) => {
    for (const row of document.querySelectorAll("tr.is-cursor")) {
      if (!row.contains(event.target)) row.classList.remove("is-cursor");
    }
  });
})();
