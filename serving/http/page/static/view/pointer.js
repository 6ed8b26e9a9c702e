/** Mouse, pen and touch on the image: clicks, boxes and previews. */

const LEAST_DRAG = 5;
const TYPES_SPACE = "input:not([type=checkbox]):not([type=range]), textarea, select";
const TAKES_SPACE = "button, input, summary, a";

export class Pointer {
  #start = null;
  #isPanning = false;

  /**
   * @param {import("./viewer.js").Viewer} viewer
   * @param {import("../state/store.js").Store} store
   * @param {import("../state/entities.js").Entities} entities
   * @param {import("../service/segmenter.js").Segmenter} segmenter
   */
  constructor(viewer, store, entities, segmenter) {
    Object.assign(this, { viewer, store, entities, segmenter });
    const { osd } = viewer;
    osd.addHandler("canvas-press", (event) => this.#press(event));
    osd.addHandler("canvas-drag", (event) => this.#drag(event));
    osd.addHandler("canvas-drag-end", (event) => this.#dragEnd(event));
    osd.addHandler("canvas-click", (event) => this.#click(event));
    osd.addHandler("canvas-pinch", () => this.#cancelBand());
    osd.canvas.addEventListener("pointermove", (event) => this.#hover(event));
    osd.canvas.addEventListener("pointerleave", () => segmenter.cancelPreview());
    addEventListener("keydown", (event) => this.#space(event, true));
    addEventListener("keyup", (event) => this.#space(event, false));
  }

  /** Point of the image under a point of the element, or null beside the image. */
  placeOf(position, { clamp = false } = {}) {
    const { image } = this.store.state;
    const place = image && this.viewer.toImage(position);
    if (!place) return null;
    const within = (value, limit) => Math.min(Math.max(value, 0), limit);
    if (clamp) return { x: within(place.x, image.width), y: within(place.y, image.height) };
    const isInside = place.x >= 0 && place.y >= 0 && place.x < image.width && place.y < image.height;
    return isInside ? place : null;
  }

  #press({ position }) {
    // What begins as a move of the image stays one.
    this.#start = this.#isPanning ? null : this.placeOf(position, { clamp: true });
  }

  #drag(event) {
    if (!this.#start || this.#isPanning || this.store.state.tool === "move") return;
    event.preventDefaultAction = true;
    const end = this.placeOf(event.position, { clamp: true });
    this.segmenter.cancelPreview();
    this.store.set({ rubberBand: boxOf(this.#start, end), cursor: null });
  }

  #dragEnd(event) {
    const { rubberBand: box } = this.store.state;
    if (!box) return;
    event.preventDefaultAction = true;
    this.#cancelBand();
    const { scale } = this.viewer.placement;
    const isBox = Math.min(box.x1 - box.x0, box.y1 - box.y0) * scale >= LEAST_DRAG;
    if (isBox) this.entities.addBox(box);
  }

  #cancelBand() {
    this.#start = null;
    if (this.store.state.rubberBand) this.store.set({ rubberBand: null });
  }

  #click({ quick, position, originalEvent }) {
    const { tool } = this.store.state;
    const place = this.placeOf(position);
    if (!quick || !place || this.#isPanning || tool === "move") return;
    this.segmenter.cancelPreview();
    this.store.set({ cursor: null, rubberBand: null });
    const background = originalEvent.shiftKey || tool === "background";
    this.entities.addPoint({ ...place, background });
  }

  #hover(event) {
    const { hasPreview, tool, rubberBand } = this.store.state;
    if (!hasPreview || tool === "move" || tool === "background" || rubberBand) return;
    if (event.pointerType === "touch" || event.buttons || event.shiftKey) return;
    const bounds = this.viewer.element.getBoundingClientRect();
    const place = this.placeOf({ x: event.clientX - bounds.x, y: event.clientY - bounds.y });
    if (place) this.segmenter.preview({ ...place, background: false });
    else this.segmenter.cancelPreview();
  }

  #space(event, isDown) {
    if (event.code !== "Space" || event.target.closest?.(TYPES_SPACE)) return;
    const isOnImage = this.viewer.element.matches(":hover");
    if (isDown && event.target.closest?.(TAKES_SPACE) && !isOnImage) return;
    // Nor does a button that has the focus take the key.
    if (isDown || this.#isPanning) event.preventDefault();
    this.#isPanning = isDown;
    this.viewer.element.classList.toggle("is-panning", isDown);
  }
}

/** Box between two corners. */
export function boxOf(a, b) {
  return {
    x0: Math.min(a.x, b.x), y0: Math.min(a.y, b.y), x1: Math.max(a.x, b.x), y1: Math.max(a.y, b.y),
  };
}
