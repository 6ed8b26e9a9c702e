/** A cursor on the image that is moved by the arrow keys. */

import { boxOf } from "./pointer.js";

const STEP = 10;
// With these Enter places a foreground point.
const PREVIEWED = ["foreground", "move"];

export class Cursor {
  #corner = null;

  /** Takes what `Pointer` takes. */
  constructor(viewer, store, entities, segmenter) {
    Object.assign(this, { viewer, store, entities, segmenter });
    store.subscribe(({ cursor }) => this.#follow(cursor));
  }

  /**
   * Move by a step on the screen, at least a pixel of the image.
   *
   * @param {number} dx
   * @param {number} dy
   * @param {boolean} isFine by one pixel of the image
   */
  move(dx, dy, isFine) {
    const { image, cursor, hasPreview, tool } = this.store.state;
    if (!image) return;
    const step = isFine ? 1 : Math.max(1, Math.round(STEP / this.viewer.placement.scale));
    const from = cursor ?? { x: Math.floor(image.width / 2) + 0.5, y: Math.floor(image.height / 2) + 0.5 };
    const within = (value, limit) => Math.min(Math.max(value, 0.5), limit - 0.5);
    const to = cursor
      ? { x: within(from.x + dx * step, image.width), y: within(from.y + dy * step, image.height) }
      : from;
    const rubberBand = this.#corner && boxOf(this.#corner, to);
    this.store.set({ cursor: to, rubberBand });
    this.viewer.reveal(to);
    if (hasPreview && PREVIEWED.includes(tool)) this.segmenter.preview({ ...to, background: false });
  }

  /** Place a point at the cursor, or with the box tool a corner. */
  place(background) {
    const { cursor, tool } = this.store.state;
    if (!cursor) return this.move(0, 0, true);
    this.segmenter.cancelPreview();
    if (tool === "box" && !background) return this.#placeCorner(cursor);
    return this.entities.addPoint({ ...cursor, background: background || tool === "background" });
  }

  /** Hide it, and forget a box that was begun. */
  hide() {
    this.segmenter.cancelPreview();
    this.store.set({ cursor: null, rubberBand: null });
  }

  /** A box that was begun goes with the cursor, as with a click or another image. */
  #follow(cursor) {
    if (!cursor) this.#corner = null;
  }

  #placeCorner(cursor) {
    if (!this.#corner) {
      this.#corner = cursor;
      return;
    }
    const box = boxOf(this.#corner, cursor);
    this.#corner = null;
    this.store.set({ rubberBand: null });
    if (box.x1 > box.x0 && box.y1 > box.y0) this.entities.addBox(box);
  }
}
