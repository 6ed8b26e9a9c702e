/** Keys of all actions; the help dialog lists the same table. */

import { byId } from "./dom.js";
import { openHelp } from "./dialogs.js";
import { TOOLS } from "./tools.js";

const KEEPS_TYPING = "input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]";
const KEEPS_ENTER = "button, a, summary, input";

/**
 * List the keys.
 *
 * @returns {{shown: string[], what: string, matches: (event: KeyboardEvent) => boolean,
 *   run: (event: KeyboardEvent) => void}[]}
 */
export function keysOf({ store, entities, cursor, viewer, segmenter }) {
  const click = (id) => () => byId(id).click();
  const selected = (run) => () => store.state.selectedId !== null && run(store.state.selectedId);
  const openPanel = (id, field) => () => {
    byId(id).open = true;
    byId(field).focus();
  };
  return [
    arrows("Move the cursor; with Shift by one pixel", cursor),
    { shown: ["Enter"], what: "Place a point, or a corner of a box; with Shift a background point",
      matches: ({ key, target }) => key === "Enter" && !target.closest(KEEPS_ENTER),
      run: ({ shiftKey }) => cursor.place(shiftKey) },
    key("Esc", "Escape", "Hide the cursor, cancel what is in work", () => {
      cursor.hide();
      segmenter.lane.clear();
    }),
    ...TOOLS.map(([tool, label, digit]) => key(digit, digit, label, () => store.set({ tool }))),
    key("N", "n", "Next entity", () => entities.finish()),
    { shown: ["Z", "Shift Z"], what: "Undo, redo; also with Ctrl",
      matches: (event) => event.key.toLowerCase() === "z",
      run: ({ shiftKey }) => (shiftKey ? store.redo() : store.undo()) },
    key("Delete", "Delete", "Remove the selected entity", selected((id) => entities.remove(id))),
    key("V", "v", "Hide or show the selected entity", selected((id) => entities.toggleVisible(id))),
    key("[", "[", "Select the entity before", () => entities.step(-1)),
    key("]", "]", "Select the next entity", () => entities.step(1)),
    key("L", "l", "Label of new entities", () => byId("label").focus()),
    key("M", "m", "Every click a new entity, or not", click("one-click")),
    key("P", "p", "Preview on or off", click("has-preview")),
    key("K", "k", "Calibration on or off, where the model has it", () =>
      store.state.service?.model.calibrates && byId("without-calibration").click()),
    key("E", "e", "Find everything", openPanel("everything-panel", "points-per-side")),
    key("C", "c", "Classes", openPanel("classes-panel", "class-name")),
    key("X", "x", "Export", () => {
      byId("export-panel").open = true;
      byId("export-panel").querySelector("button:enabled, summary").focus();
    }),
    key("+", "+", "Zoom in", () => viewer.zoomBy(1.5), "="),
    key("−", "-", "Zoom out", () => viewer.zoomBy(1 / 1.5)),
    key("0", "0", "Fit the image", () => viewer.fit()),
    key("O", "o", "Open an image", click("open")),
    key("T", "t", "Theme", click("theme")),
    key("?", "?", "This help", openHelp),
  ];
}

/** Listen to the keys. */
export function listenToKeys(keys) {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.(KEEPS_TYPING)) return;
    const hasControl = event.ctrlKey || event.metaKey;
    if (hasControl ? event.key.toLowerCase() !== "z" : isSwitchedOff(event)) return;
    const found = keys.find(({ matches }) => matches(event));
    if (!found) return;
    event.preventDefault();
    found.run(event);
  });
}

function key(shown, value, what, run, other = value) {
  return { shown: [shown], what, run, matches: (event) => [value, other].includes(lower(event.key)) };
}

function arrows(what, cursor) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  return {
    shown: ["←", "↑", "→", "↓"],
    what,
    matches: ({ key: pressed, target }) => pressed in steps && !target.closest("#side, #tools, .zoom"),
    run: (event) => cursor.move(...steps[event.key], event.shiftKey),
  };
}

const lower = (pressed) => (pressed.length === 1 ? pressed.toLowerCase() : pressed);

/** Keys of one character can be switched off, for speech input (WCAG 2.1.4). */
const isSwitchedOff = (event) => event.key.length === 1 && event.key !== "?" && !byId("has-keys").checked;
