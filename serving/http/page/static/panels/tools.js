/** The tools on the image, and the buttons of undo and of the view. */

import { byId, iconButton, update } from "./dom.js";

const PATIENCE_MS = 1500;

export const TOOLS = [
  ["foreground", "Foreground point or box", "1"],
  ["background", "Background point", "2"],
  ["box", "Box", "3"],
  ["move", "Move the image", "4"],
];

/**
 * @param {import("../state/store.js").Store} store
 * @param {import("../state/entities.js").Entities} entities
 * @param {import("../view/viewer.js").Viewer} viewer
 * @param {import("../service/lane.js").Lane} lane
 */
export function toolbars(store, entities, viewer, lane) {
  const tools = TOOLS.map(([tool, label, key]) => {
    const button = iconButton(tool, label, () => store.set({ tool }), `${label} (${key})`);
    button.setAttribute("role", "radio");
    return button;
  });
  byId("tools").replaceChildren(...tools);
  byId("tools").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = tools.indexOf(event.target);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = (at + step + tools.length) % tools.length;
    store.set({ tool: TOOLS[next][0] });
    tools[next].focus();
  });
  const [add, undo, redo, clear] = [
    iconButton("plus", "Finish, the next click is a new entity", () => entities.finish(), "Next entity (N)"),
    iconButton("undo", "Undo", () => store.undo(), "Undo (Z)"),
    iconButton("redo", "Redo", () => store.redo(), "Redo (Shift Z)"),
    iconButton("trash", "Remove all entities", () => entities.removeAll()),
  ];
  byId("entity-actions").replaceChildren(add, undo, redo, clear);
  byId("cancel").addEventListener("click", () => lane.clear());
  byId("zoom-in").addEventListener("click", () => viewer.zoomBy(1.5));
  byId("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.5));
  byId("zoom-fit").addEventListener("click", () => viewer.fit());
  const brightness = byId("brightness");
  brightness.addEventListener("input", () => viewer.brighten(Number(brightness.value)));

  let wasBusy = false;
  store.subscribe((state) => {
    const { tool, image, selectedId, isBusy } = state;
    tools.forEach((button, index) => {
      const isChosen = TOOLS[index][0] === tool;
      button.setAttribute("aria-checked", String(isChosen));
      button.tabIndex = isChosen ? 0 : -1;
    });
    update(byId("tools"), "hidden", !image);
    update(byId("zoom"), "hidden", !image);
    if (isBusy !== wasBusy) showProgress(isBusy);
    wasBusy = isBusy;
    byId("stage").dataset.tool = tool;
    add.disabled = selectedId === null;
    undo.disabled = !store.canUndo;
    redo.disabled = !store.canRedo;
    clear.disabled = !state.entities.length;
  });
}

let patience;

/** Show that work goes on, and after a while how to end it. */
function showProgress(isBusy) {
  clearTimeout(patience);
  byId("progress").hidden = !isBusy;
  byId("cancel").hidden = true;
  if (isBusy) patience = setTimeout(() => (byId("cancel").hidden = false), PATIENCE_MS);
}
