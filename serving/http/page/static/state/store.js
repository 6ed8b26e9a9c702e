/** The page's state, with undo: one plain object that is replaced and never changed. */

const LONGEST_HISTORY = 200;

/**
 * @typedef {object} Entity
 * @property {number} id
 * @property {string} label
 * @property {string} colour as #rrggbb
 * @property {boolean} isVisible
 * @property {"prompt" | "everything" | "class"} origin
 * @property {{x: number, y: number, background: boolean}[]} points pixels of the image
 * @property {{x0: number, y0: number, x1: number, y1: number} | null} box
 * @property {import("../masks/mask.js").Mask | null} mask null until the service has answered
 * @property {object | null} calibrated message `Prompt`: the prompt as the model took it
 * @property {boolean} hasFailed the service refused this prompt
 */

export class Store {
  #state;
  #undo = [];
  #redo = [];
  #listeners = new Set();

  constructor(initial) {
    this.#state = initial;
  }

  get state() {
    return this.#state;
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  get canRedo() {
    return this.#redo.length > 0;
  }

  /** Call a function now and after every change. */
  subscribe(listener) {
    this.#listeners.add(listener);
    listener(this.#state);
  }

  /** Replace some members, without a step of undo. */
  set(patch) {
    this.#state = { ...this.#state, ...patch };
    for (const listener of this.#listeners) listener(this.#state);
  }

  /** Replace entities or the selection as one step that can be undone. */
  edit(patch) {
    this.#undo.push(this.#snapshot());
    if (this.#undo.length > LONGEST_HISTORY) this.#undo.shift();
    this.#redo = [];
    this.set(patch);
  }

  undo() {
    this.#travel(this.#undo, this.#redo);
  }

  redo() {
    this.#travel(this.#redo, this.#undo);
  }

  /** Begin anew, as with another image. */
  forgetHistory() {
    this.#undo = [];
    this.#redo = [];
  }

  #snapshot() {
    const { entities, selectedId } = this.#state;
    return { entities, selectedId };
  }

  #travel(from, to) {
    const snapshot = from.pop();
    if (!snapshot) return;
    to.push(this.#snapshot());
    this.set(snapshot);
  }
}

/** The entity that further clicks refine, if any. */
export const selectedOf = (state) => state.entities.find(({ id }) => id === state.selectedId);

/** Entities with a mask that are shown. */
export const shownOf = (state) => state.entities.filter(({ mask, isVisible }) => mask && isVisible);

export const initialState = {
  image: null,
  entities: [],
  selectedId: null,
  hoveredId: null,
  preview: null,
  rubberBand: null,
  cursor: null,
  tool: "foreground",
  label: "",
  oneClickEach: false,
  hasPreview: true,
  withoutCalibration: false,
  tileSize: null,
  service: null,
  classes: [],
  isBusy: false,
  timing: null,
};
