/** The list of entities: label, colour, score, area, visibility, removal. */

import { byId, icon, iconButton, make, update } from "./dom.js";

export class EntityList {
  #rows = new Map();

  /**
   * @param {import("../state/store.js").Store} store
   * @param {import("../state/entities.js").Entities} entities
   */
  constructor(store, entities) {
    this.store = store;
    this.entities = entities;
    this.list = byId("entities");
    store.subscribe((state) => this.#show(state));
  }

  #show({ entities, selectedId }) {
    update(byId("entity-count"), "textContent", String(entities.length));
    update(byId("entities-empty"), "hidden", entities.length > 0);
    const kept = new Set(entities.map(({ id }) => id));
    for (const [id, row] of this.#rows) {
      if (kept.has(id)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    entities.forEach((entity, index) => this.#place(entity, index, entity.id === selectedId));
    this.#suggest(entities);
  }

  #place(entity, index, isSelected) {
    let row = this.#rows.get(entity.id);
    if (!row) {
      row = this.#make(entity.id);
      this.#rows.set(entity.id, row);
    }
    if (this.list.children[index] !== row) this.list.insertBefore(row, this.list.children[index] ?? null);
    if (row.shown === entity && row.index === index && row.isSelected === isSelected) return;
    Object.assign(row, { shown: entity, index, isSelected });
    this.#fill(row, entity, index, isSelected);
  }

  #make(id) {
    const { entities } = this;
    const colour = make("input", { type: "color", className: "swatch" });
    colour.addEventListener("change", () => entities.change(id, { colour: colour.value }));
    const label = make("input", { type: "text", className: "entity-label", maxLength: 128 });
    label.addEventListener("change", () => entities.change(id, { label: label.value }));
    const select = make("button", { type: "button", className: "entity-select" });
    select.addEventListener("click", () => entities.select(id));
    const eye = iconButton("eye", "", () => entities.toggleVisible(id));
    const remove = iconButton("trash", "", () => entities.remove(id));
    const row = make("li", { className: "entity" }, colour, label, select, eye, remove);
    row.addEventListener("pointerenter", () => this.store.set({ hoveredId: id }));
    row.addEventListener("pointerleave", () => this.store.set({ hoveredId: null }));
    return Object.assign(row, { parts: { colour, label, select, eye, remove } });
  }

  #fill(row, { label, colour, isVisible, mask, hasFailed }, index, isSelected) {
    const { parts } = row;
    const name = `entity ${index + 1}`;
    row.classList.toggle("is-selected", isSelected);
    row.classList.toggle("is-hidden", !isVisible);
    update(parts.colour, "value", colour);
    update(parts.label, "value", label);
    update(parts.label, "placeholder", name);
    parts.select.setAttribute("aria-pressed", String(isSelected));
    parts.select.replaceChildren(...measures(mask, hasFailed));
    parts.eye.replaceChildren(icon(isVisible ? "eye" : "eye-off"));
    const labels = {
      colour: `Colour of ${name}`, label: `Label of ${name}`, remove: `Remove ${name}`,
      select: `Select ${name}, ${mask ? `score ${mask.score.toFixed(2)}, ${mask.area} pixels` : "no mask"}`,
      eye: `${isVisible ? "Hide" : "Show"} ${name}`,
    };
    for (const [part, text] of Object.entries(labels)) parts[part].setAttribute("aria-label", text);
    parts.eye.title = labels.eye;
    parts.remove.title = labels.remove;
    if (isSelected) row.scrollIntoView({ block: "nearest" });
  }

  #suggest(entities) {
    const names = [...new Set(entities.map(({ label }) => label).filter(Boolean))].sort();
    const list = byId("labels");
    if (names.join("\n") === list.names) return;
    list.names = names.join("\n");
    list.replaceChildren(...names.map((value) => make("option", { value })));
  }
}

function measures(mask, hasFailed) {
  if (hasFailed) return [make("span", { className: "score" }, "no mask")];
  if (!mask) return [make("span", { className: "score is-waiting" }, "…")];
  return [
    make("span", { className: "score", title: "Predicted IoU" }, mask.score.toFixed(2)),
    make("span", { className: "area", title: "Pixels" }, `${mask.area.toLocaleString("en")} px`),
  ];
}
