/* What the parts of a page do: copy, dialogs, menus, tabs of code, the drawer, toasts, a log that follows. Everything
   listens on the document, so that fragments brought by htmx work without being told. */
(() => {
  "use strict";

  // Copy ------------------------------------------------------------------------------------------------------

  const copyText = async (text) => {
    if (navigator.clipboard && window.isSecureContext) {
      await navigator.clipboard.writeText(text);
      return true;
    }
    // Plain http on another host has no clipboard interface; a selection can still be copied.
    const area = document.createElement("textarea");
    area.value = text;
    area.readOnly = true;
    area.className = "unseen";
    document.body.append(area);
    area.select();
    try {
      return document.execCommand("copy");
    } finally {
      area.remove();
    }
  };

  const say = (words) => {
    let region = document.getElementById("said");
    if (!region) {
      region = document.createElement("div");
      region.id = "said";
      region.className = "unseen";
      region.setAttribute("role", "status");
      document.body.append(region);
    }
    region.textContent = "";
    window.setTimeout(() => { region.textContent = words; }, 50);
  };

  const showIcon = (button, name) => {
    const use = button.querySelector("use");
    if (use) use.setAttribute("href", use.getAttribute("href").replace(/#.*$/, `#${name}`));
  };

  const copy = async (button) => {
    let done = false;
    try {
      done = await copyText(button.dataset.copy);
    } catch {
      done = false; // refused by the browser: say so, the text is still on the page
    }
    say(done ? "Copied" : "Could not copy; select the text instead");
    if (!done) {
      button.title = "Could not copy; select the text instead";
      return;
    }
    button.focus();
    button.classList.add("is-done");
    showIcon(button, "check");
    window.setTimeout(() => {
      button.classList.remove("is-done");
      showIcon(button, "copy");
    }, 1500);
  };

  // Menus -----------------------------------------------------------------------------------------------------

  const closeMenus = (except) => {
    for (const menu of document.querySelectorAll("details[data-menu][open]")) {
      if (!menu.contains(except)) menu.open = false;
    }
  };

  const stepInMenu = (menu, step) => {
    const items = [...menu.querySelectorAll("a.menu-item, button.menu-item")];
    if (!items.length) return;
    const at = items.indexOf(document.activeElement);
    items[(at + step + items.length) % items.length].focus();
  };

  // Drawer ----------------------------------------------------------------------------------------------------

  const drawer = (open) => {
    const button = document.querySelector("[data-drawer]");
    const nav = button && document.getElementById(button.dataset.drawer);
    if (!nav || nav.classList.contains("is-open") === open) return;
    nav.classList.toggle("is-open", open);
    button.setAttribute("aria-expanded", String(open));
    document.querySelector(".nav-veil")?.remove();
    if (open) {
      const veil = document.createElement("button");
      veil.type = "button";
      veil.className = "nav-veil";
      veil.setAttribute("aria-label", "Close the navigation");
      veil.addEventListener("click", () => drawer(false));
      document.body.append(veil);
      nav.querySelector("a.nav-link")?.focus();
    } else {
      button.focus();
    }
  };

  // Tabs of code ----------------------------------------------------------------------------------------------

  const chooseTab = (tab) => {
    for (const other of tab.closest("[role=tablist]").querySelectorAll("[role=tab]")) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      const body = document.getElementById(other.getAttribute("aria-controls"));
      if (body) body.hidden = !chosen;
    }
  };

  // Listeners -------------------------------------------------------------------------------------------------

  document.addEventListener("click", (event) => {
    const target = event.target;
    closeMenus(target);
    const button = target.closest("button, a");
    if (!button) return;
    if (button.dataset.copy !== undefined) {
      copy(button);
    } else if (button.dataset.dialog) {
      const dialog = document.getElementById(button.dataset.dialog);
      if (dialog) {
        event.preventDefault();
        dialog.showModal();
      }
    } else if (button.hasAttribute("data-close")) {
      button.closest("dialog")?.close();
    } else if (button.dataset.dismiss) {
      button.closest(button.dataset.dismiss)?.remove();
    } else if (button.hasAttribute("data-drawer")) {
      drawer(true);
    } else if (button.getAttribute("role") === "tab") {
      chooseTab(button);
    } else if (button.hasAttribute("data-print")) {
      window.print();
    }
  });

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.key === "Escape") {
      const menu = target.closest?.("details[data-menu][open]") ?? document.querySelector("details[data-menu][open]");
      if (menu) {
        menu.open = false;
        menu.querySelector("summary").focus();
      }
      drawer(false);
    }
    if (target.getAttribute?.("role") === "tab" && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      const tabs = [...target.closest("[role=tablist]").querySelectorAll("[role=tab]")];
      const next = tabs[(tabs.indexOf(target) + (event.key === "ArrowRight" ? 1 : -1) + tabs.length) % tabs.length];
      chooseTab(next);
      next.focus();
    }
    const menu = target.closest?.("details[data-menu][open]");
    if (menu && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      stepInMenu(menu, event.key === "ArrowDown" ? 1 : -1);
    }
    // Enter in a field never does a destructive deed: only the button itself does.
    if (event.key === "Enter" && target.matches?.("input") && target.form?.querySelector(".btn-destructive-filled")) {
      event.preventDefault();
    }
  });

  // A deed that needs the instance's name typed: the button wakes when the name is right. The server checks again.
  const wakeByName = (input) => {
    const right = input.value === input.dataset.typeName;
    input.closest(".field")?.querySelector("[data-matches]")?.toggleAttribute("hidden", !right);
    for (const button of input.form?.querySelectorAll("[data-needs-name]") ?? []) button.disabled = !right;
  };
  document.addEventListener("input", (event) => {
    if (event.target.dataset?.typeName !== undefined) wakeByName(event.target);
  });

  // A log that follows stays at its end unless the reader has scrolled up.
  const atEnd = (log) => log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  const follow = (root) => {
    for (const log of root.querySelectorAll?.("[data-follow]") ?? []) log.scrollTop = log.scrollHeight;
  };
  const following = new Map();
  document.addEventListener("htmx:beforeSwap", () => {
    for (const log of document.querySelectorAll("[data-follow]")) following.set(log.id, atEnd(log) ? null : log.scrollTop);
  });

  const ready = (root) => {
    for (const input of root.querySelectorAll?.("[data-type-name]") ?? []) wakeByName(input);
  };
  document.addEventListener("htmx:afterSettle", (event) => {
    ready(event.target);
    for (const log of document.querySelectorAll("[data-follow]")) {
      const kept = following.get(log.id);
      log.scrollTop = kept ?? log.scrollHeight;
    }
  });
  document.addEventListener("DOMContentLoaded", () => {
    ready(document);
    follow(document);
    // Not autofocus: that scrolls, and what stands above the safe button has to be read first.
    document.querySelector("[data-focus]")?.focus({ preventScroll: true });
    for (const toast of document.querySelectorAll("#toasts > .toast")) {
      // What can be undone stays until it is closed; what only tells leaves by itself.
      if (!toast.querySelector("form")) window.setTimeout(() => toast.remove(), 8000);
    }
  });
})();
