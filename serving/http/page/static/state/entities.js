/** What the user does to entities; the service is asked by `Segmenter` for masks that are missing. */

import { selectedOf } from "./store.js";
import { colourOf } from "./palette.js";

let made = 0;

/** Build an entity. */
export function entity(fields) {
  made += 1;
  return {
    id: made, label: "", colour: colourOf(made - 1), isVisible: true, origin: "prompt", points: [],
    box: null, mask: null, calibrated: null, hasFailed: false, ...fields,
  };
}

/** Start numbers and colours afresh, with another image. */
export function restartNumbers() {
  made = 0;
}

export class Entities {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
  }

  /** Add a click to the selected entity, or begin a new one. */
  addPoint(point) {
    const refined = this.refinedBy(point);
    if (refined) this.#ask(refined.id, { points: [...refined.points, point] });
    else this.#append(entity({ label: this.store.state.label, points: [point] }));
  }

  /** The entity that a click would refine, if it does not begin a new one. */
  refinedBy({ background }) {
    return this.store.state.oneClickEach && !background ? undefined : this.#refined();
  }

  /** Put a box around the points of the selected entity, or begin a new one. */
  addBox(box) {
    const { state } = this.store;
    const selected = this.#refined();
    const holds = ({ x, y }) => x >= box.x0 && x <= box.x1 && y >= box.y0 && y <= box.y1;
    const isAround = selected?.points.some((point) => !point.background && holds(point));
    const isNew = !isAround || selected.box || state.oneClickEach;
    if (isNew) this.#append(entity({ label: state.label, box }));
    else this.#ask(selected.id, { box });
  }

  /** Add masks that were found without prompts, as one step. */
  addFound(found) {
    const { entities } = this.store.state;
    this.store.edit({ entities: [...entities, ...found], selectedId: null });
  }

  /** Let the next click begin a new entity. */
  finish() {
    this.store.set({ selectedId: null });
  }

  select(id) {
    this.store.set({ selectedId: id });
  }

  /** Select the next entity, or the one before. */
  step(by) {
    const { entities, selectedId } = this.store.state;
    if (!entities.length) return;
    const at = entities.findIndex(({ id }) => id === selectedId);
    const next = at < 0 ? (by > 0 ? 0 : -1) : (at + by) % entities.length;
    this.select(entities.at(next).id);
  }

  remove(id) {
    const { entities, selectedId } = this.store.state;
    this.store.edit({
      entities: entities.filter((each) => each.id !== id),
      selectedId: selectedId === id ? null : selectedId,
    });
  }

  removeAll() {
    if (this.store.state.entities.length) this.store.edit({ entities: [], selectedId: null });
  }

  /** Change label, colour or visibility. */
  change(id, fields) {
    this.store.edit({ entities: this.#with(id, fields) });
  }

  toggleVisible(id) {
    const entity = this.store.state.entities.find((each) => each.id === id);
    if (entity) this.change(id, { isVisible: !entity.isVisible });
  }

  /** Ask anew for the selected entity, as after a switch of the calibration. */
  askAgain() {
    const selected = this.#refined();
    if (selected) this.#ask(selected.id, {});
  }

  /** Take the service's answer to the prompt of an entity, unless it was changed or undone since. */
  answer(asked, fields) {
    const { entities } = this.store.state;
    if (entities.includes(asked)) this.store.set({ entities: this.#with(asked.id, fields) });
  }

  #refined() {
    const selected = selectedOf(this.store.state);
    return selected?.origin === "prompt" ? selected : undefined;
  }

  #append(added) {
    const entities = [...this.store.state.entities, added];
    this.store.edit({ entities, selectedId: added.id });
  }

  #ask(id, fields) {
    const unanswered = { mask: null, calibrated: null, hasFailed: false };
    this.store.edit({ entities: this.#with(id, { ...fields, ...unanswered }) });
  }

  #with(id, fields) {
    return this.store.state.entities.map((each) => (each.id === id ? { ...each, ...fields } : each));
  }
}
