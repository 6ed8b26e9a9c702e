/** The dialogs of keys and of the access token, and the theme. */

import { kept, token } from "../service/api.js";
import { byId, make } from "./dom.js";
import { announce } from "./messages.js";

const THEME_KEY = "cpcsam.theme";
const THEMES = ["auto", "light", "dark"];
const settings = kept("localStorage");

/** Fill the help dialog with the page's keys. */
export function helpDialog(keys) {
  const rows = keys.flatMap(({ shown, what }) => [
    make("dt", {}, ...shown.map((key) => make("kbd", {}, key))),
    make("dd", {}, what),
  ]);
  byId("keys").replaceChildren(...rows);
  byId("help-open").addEventListener("click", openHelp);
}

export const openHelp = () => byId("help").showModal();

/** @param {() => void} onChange called with another token in place */
export function tokenDialog(onChange) {
  byId("token-open").addEventListener("click", () => openToken());
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set(byId("token").value.trim());
    byId("token-dialog").close();
    onChange();
  });
}

/** Ask for a token, telling why. */
export function openToken(why = "") {
  byId("token").value = token.get();
  if (why) byId("token-note").textContent = why;
  if (!byId("token-dialog").open) byId("token-dialog").showModal();
}

/** Light, dark, or as the system is. */
export function themeSwitch() {
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    byId("theme").title = `Theme: ${theme} (T)`;
  };
  apply(settings.get(THEME_KEY) ?? "auto");
  byId("theme").addEventListener("click", () => {
    const { theme } = document.documentElement.dataset;
    const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    settings.set(THEME_KEY, next);
    apply(next);
    announce(`Theme: ${next}`);
  });
}
