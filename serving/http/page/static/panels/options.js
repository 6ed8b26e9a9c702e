/** Label of new entities, and the switches for clicks, previews and the calibration. */

import { announce } from "./messages.js";
import { byId, make, update } from "./dom.js";

const TILES = [64, 128, 256, 512, 1024];

/**
 * @param {import("../state/store.js").Store} store
 * @param {import("../state/entities.js").Entities} entities
 * @param {import("../service/segmenter.js").Segmenter} segmenter
 */
export function optionsPanel(store, entities, segmenter) {
  const bind = (id, member, afterwards = () => {}) => {
    const input = byId(id);
    input.addEventListener("change", () => {
      store.set({ [member]: input.checked });
      afterwards();
    });
    store.subscribe((state) => update(input, "checked", state[member]));
  };
  bind("one-click", "oneClickEach");
  bind("has-preview", "hasPreview", () => segmenter.cancelPreview());
  bind("without-calibration", "withoutCalibration", () => entities.askAgain());
  tileField(store, entities);
  const label = byId("label");
  label.addEventListener("input", () => store.set({ label: label.value }));
  store.subscribe(({ service }) => {
    update(byId("calibration"), "hidden", !service?.model.calibrates);
    const { model } = service ?? {};
    update(byId("model"), "hidden", !model);
    if (model) update(byId("model"), "textContent", `${model.size} · version ${model.version}`);
  });
  let announced = null;
  store.subscribe(({ entities: all, selectedId }) => {
    const index = all.findIndex(({ id }) => id === selectedId);
    const { mask, ...prompt } = all[index] ?? {};
    const moved = prompt.calibrated ? movesOf(prompt) : "";
    update(byId("moved"), "hidden", !moved);
    update(byId("moved"), "textContent", moved);
    if (!mask || mask === announced) return;
    announced = mask;
    announce(`Entity ${index + 1}: score ${mask.score.toFixed(2)}, ${mask.area} pixels. ${moved}`);
  });
}

/** By how much the model moved the points and the box, its corners taken each. */
function movesOf({ points, box, calibrated }) {
  const distance = (from, to) => Math.hypot(to.x - from.x, to.y - from.y);
  const words = (calibrated.points ?? []).map((to, at) => distance(points[at], to).toFixed(1));
  if (box && calibrated.box) {
    const corners = (each) => [{ x: each.x0, y: each.y0 }, { x: each.x1, y: each.y1 }];
    const [from, to] = [corners(box), corners(calibrated.box)];
    words.push(...from.map((corner, at) => distance(corner, to[at]).toFixed(1)));
  }
  return `Calibration moved the prompt by ${words.join(", ")} px.`;
}

/** How large the part of the image is that the model looks at. */
function tileField(store, entities) {
  const select = byId("tile");
  const choices = [["", "as the model has it"], ["0", "whole image"], ...TILES.map((side) => [side, `${side} px`])];
  select.append(...choices.map(([value, text]) => make("option", { value }, text)));
  select.addEventListener("change", () => {
    store.set({ tileSize: select.value === "" ? null : Number(select.value) });
    entities.askAgain();
  });
  let isSuggested = false;
  store.subscribe(({ service, tileSize }) => {
    if (service && !isSuggested) {
      isSuggested = true;
      store.set({ tileSize: tileSize ?? suggestedTile(service.model) });
    }
    update(select, "value", tileSize === null ? "" : String(tileSize));
  });
}

/** The compact base sees small entities in tiles of its own side alone, and does not declare it. */
function suggestedTile({ size, window, image_size: side }) {
  return size === "vit_t" && !window && TILES.includes(side) ? side : null;
}
