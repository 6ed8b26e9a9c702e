/** Keeps masks up to date with prompts, one request at a time, and finds entities without prompts. */

import { entity } from "../state/entities.js";
import { Mask } from "../masks/mask.js";
import { Lane } from "./lane.js";

export class Segmenter {
  #asked = new WeakSet();
  #refined = {};

  /**
   * @param {import("../state/store.js").Store} store
   * @param {import("../state/entities.js").Entities} entities
   * @param {(error: Error) => void} onError
   */
  constructor(store, entities, onError) {
    this.store = store;
    this.entities = entities;
    this.onError = onError;
    this.lane = new Lane((isBusy) => store.set({ isBusy }));
    store.subscribe((state) => {
      this.#answerPrompts(state);
      this.#endPreview();
    });
  }

  /** Send a new image, so that the first click is answered at once. */
  async prepare(image) {
    this.lane.clear();
    const middle = { x: Math.floor(image.width / 2), y: Math.floor(image.height / 2) };
    const request = { prompts: [{ points: [middle] }], mask_format: "MASK_FORMAT_NONE" };
    const response = await this.#ask("v1/segment", { ...request, ...this.#tiles() });
    const { width, height } = response?.original_size ?? image;
    if (width === image.width && height === image.height) return;
    const what = `${image.name}: got ${width} × ${height} pixels from the service, expected ${image.width} × ${image.height}`;
    this.onError({ title: "Shown otherwise", what, fix: "save it upright, without an orientation" });
  }

  /** Show what a click here would give, as soon as the lane is free; the image is not sent for it. */
  preview(point) {
    const { image } = this.store.state;
    if (!image?.sent.id) return;
    this.lane.preview(async (signal) => {
      const { points = [], box } = this.entities.refinedBy(point) ?? {};
      const request = this.#request({ points: [...points, point], box });
      const response = await image.sent.recall("v1/segment", request, signal).catch(() => null);
      if (signal.aborted) return;
      this.store.set({ preview: response && new Mask(response.results[0].masks[0]) });
    });
  }

  cancelPreview() {
    this.lane.cancelPreview();
    if (this.store.state.preview) this.store.set({ preview: null });
  }

  /** End a preview whose click would refine another prompt by now. */
  #endPreview() {
    const { points, box } = this.entities.refinedBy({ background: false }) ?? {};
    const isSame = this.#refined.points === points && this.#refined.box === box;
    this.#refined = { points, box };
    if (!isSame) this.cancelPreview();
  }

  /** Find everything. Returns the number of entities, or null where it failed. */
  findEverything(everything) {
    const { label } = this.store.state;
    const request = { everything, ...this.#tiles() };
    return this.#find("v1/everything", request, "everything", () => label);
  }

  /** Find all entities of classes; those by text are chosen from `everything`. Returns as `findEverything`. */
  findClasses(classes, everything) {
    return this.#find("v1/segment", { classes, everything }, "class", (mask) => mask.label);
  }

  #answerPrompts({ entities }) {
    for (const each of entities) {
      if (each.mask || each.hasFailed || each.origin !== "prompt" || this.#asked.has(each)) continue;
      this.#asked.add(each);
      this.#answerPrompt(each);
    }
  }

  async #answerPrompt(asked) {
    const response = await this.#ask("v1/segment", this.#request(asked), () =>
      this.store.state.entities.includes(asked),
    );
    if (response) {
      const [{ masks, calibrated_prompt: calibrated = null }] = response.results;
      this.entities.answer(asked, { mask: new Mask(masks[0]), calibrated });
    } else {
      this.entities.answer(asked, { hasFailed: true });
    }
    // Undo can bring it back without its mask.
    this.#asked.delete(asked);
  }

  async #find(path, request, origin, labelOf) {
    const response = await this.#ask(path, { ...request, mask_format: "MASK_FORMAT_COCO_RLE" });
    if (!response) return null;
    const found = response.results.map(({ masks: [mask] }) =>
      entity({ origin, mask: new Mask(mask), label: labelOf(mask) }),
    );
    if (found.length) this.entities.addFound(found);
    return found.length;
  }

  #request({ points, box }) {
    const { withoutCalibration, service } = this.store.state;
    const prompts = [{ points, ...(box && { box }) }];
    const request = { prompts, mask_format: "MASK_FORMAT_COCO_RLE", ...this.#tiles() };
    if (withoutCalibration && service?.model.calibrates) request.without_calibration = true;
    return request;
  }

  #tiles() {
    const { tileSize } = this.store.state;
    return tileSize === null ? {} : { tile_size: tileSize };
  }

  /** Answer of the service, or null where it failed or is not wanted any more. */
  async #ask(path, request, isWanted = () => true) {
    const { image } = this.store.state;
    try {
      return await this.lane.work(async (signal) => {
        if (!isWanted()) return null;
        const start = performance.now();
        const response = await image.sent.ask(path, request, signal);
        this.store.set({ timing: timingOf(response, performance.now() - start) });
        return response;
      });
    } catch (error) {
      if (error.name !== "AbortError") this.onError(error);
      return null;
    }
  }
}

/** Where the time of a request went, in ms. */
function timingOf({ timings, cached, warnings }, elapsed) {
  const { validate_ms: validate = 0, triton_ms: triton = 0, total_ms: total = 0 } = timings ?? {};
  return {
    elapsed, validate, triton, total, cached, warnings: warnings ?? [],
    network: Math.max(0, elapsed - total),
    other: Math.max(0, total - validate - triton),
  };
}
