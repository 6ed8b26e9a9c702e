/** Messages to the user: errors with their fix stay until closed, notes for some seconds. */

import { byId, iconButton, make } from "./dom.js";

const NOTE_MS = 7000;

/** Say something to users of screen readers alone. */
export function announce(text) {
  byId("live").textContent = text;
}

/** Show a note. */
export function note(text) {
  const message = show("note", [make("p", {}, text)]);
  announce(text);
  setTimeout(() => message.remove(), NOTE_MS);
}

/** Show an error; of a `Problem`, what is wrong and how to mend it. */
export function showError(error) {
  const parts = [make("strong", {}, error.title ?? "Something went wrong")];
  parts.push(make("p", {}, error.what ?? error.message));
  if (error.fix) parts.push(make("p", { className: "fix" }, error.fix));
  if (error.retryAfterS) parts.push(make("p", {}, `The server asks to wait ${error.retryAfterS} s.`));
  show("error", parts);
}

function show(kind, parts) {
  const message = make("div", { className: `message ${kind}` }, make("div", {}, ...parts));
  if (kind === "error") message.setAttribute("role", "alert");
  message.append(iconButton("close", "Close", () => message.remove()));
  const shown = byId("messages");
  shown.append(message);
  while (shown.children.length > 3) shown.firstChild.remove();
  return message;
}
