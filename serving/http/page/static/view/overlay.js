/** Masks, prompts and the cursor, drawn above the image at the screen's resolution. */

const ARROW = "#ffffff";

export class Overlay {
  #state;
  #isAsked = false;

  /**
   * @param {import("./viewer.js").Viewer} viewer
   * @param {import("../state/store.js").Store} store
   */
  constructor(viewer, store) {
    this.viewer = viewer;
    this.context = viewer.canvas.getContext("2d");
    store.subscribe((state) => {
      this.#state = state;
      this.refresh();
    });
    viewer.onMove(() => this.#draw());
    new ResizeObserver(() => this.refresh()).observe(viewer.element);
  }

  /** Draw with the next frame. */
  refresh() {
    if (this.#isAsked) return;
    this.#isAsked = true;
    requestAnimationFrame(() => {
      this.#isAsked = false;
      this.#draw();
    });
  }

  #draw() {
    const { canvas, element, placement } = this.viewer;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [element.clientWidth * ratio, element.clientHeight * ratio].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const { context } = this;
    context.resetTransform();
    context.clearRect(0, 0, width, height);
    if (!placement || !this.#state.image) return;
    const { x, y, scale } = placement;
    context.setTransform(scale * ratio, 0, 0, scale * ratio, x * ratio, y * ratio);
    this.pixel = 1 / scale;
    this.#drawAll(this.#state);
  }

  #drawAll({ entities, selectedId, hoveredId, preview, rubberBand, cursor }) {
    for (const entity of entities) {
      if (!entity.mask || !entity.isVisible) continue;
      const isStrong = entity.id === selectedId || entity.id === hoveredId;
      this.#fill(entity.mask.path, entity.colour, isStrong ? 0.5 : 0.34, isStrong ? 2.5 : 1.5);
    }
    if (preview) this.#fill(preview.path, "#ffffff", 0.16, 1.5, [5, 4]);
    const selected = entities.find(({ id }) => id === selectedId);
    if (selected?.isVisible) this.#drawPrompt(selected);
    if (rubberBand) this.#rectangle(rubberBand, "#ffffff", [6, 4]);
    if (cursor) this.#crosshair(cursor);
  }

  #fill(path, colour, opacity, width, dash = []) {
    const { context, pixel } = this;
    context.globalAlpha = opacity;
    context.fillStyle = colour;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
    context.lineJoin = "round";
    context.setLineDash(dash.map((length) => length * pixel));
    this.#stroke(path, colour, width);
    context.setLineDash([]);
  }

  #drawPrompt({ points, box, colour, calibrated }) {
    if (box) this.#rectangle(box, colour);
    if (calibrated?.box) this.#rectangle(calibrated.box, ARROW, [2, 4]);
    points.forEach((point, index) => {
      const moved = calibrated?.points?.[index];
      if (moved) this.#arrow(point, moved);
      this.#point(point);
    });
  }

  #point({ x, y, background }) {
    const { context, pixel } = this;
    const disc = new Path2D();
    disc.arc(x, y, 7 * pixel, 0, 2 * Math.PI);
    context.fillStyle = background ? "#c92a2a" : "#2b8a3e";
    context.fill(disc);
    this.#stroke(disc, "#ffffff", 2);
    const sign = new Path2D();
    const arm = 3.5 * pixel;
    sign.moveTo(x - arm, y);
    sign.lineTo(x + arm, y);
    if (!background) {
      sign.moveTo(x, y - arm);
      sign.lineTo(x, y + arm);
    }
    this.#stroke(sign, "#ffffff", 2);
  }

  /** From where the user clicked to where the model took the click. */
  #arrow(from, to) {
    const { pixel } = this;
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const length = Math.hypot(dx, dy);
    if (length < 2 * pixel) return;
    const [ux, uy] = [dx / length, dy / length];
    const [head, half] = [9 * pixel, 4.5 * pixel];
    const shaft = new Path2D();
    shaft.moveTo(from.x, from.y);
    shaft.lineTo(to.x, to.y);
    shaft.moveTo(to.x - ux * head - uy * half, to.y - uy * head + ux * half);
    shaft.lineTo(to.x, to.y);
    shaft.lineTo(to.x - ux * head + uy * half, to.y - uy * head - ux * half);
    this.#stroke(shaft, "#000000", 5);
    this.#stroke(shaft, ARROW, 2.5);
  }

  #rectangle({ x0, y0, x1, y1 }, colour, dash = []) {
    const path = new Path2D();
    path.rect(x0, y0, x1 - x0, y1 - y0);
    this.#stroke(path, "#000000", 3.5);
    this.context.setLineDash(dash.map((length) => length * this.pixel));
    this.#stroke(path, colour, 2);
    this.context.setLineDash([]);
  }

  #crosshair({ x, y }) {
    const { pixel } = this;
    const path = new Path2D();
    const [inner, outer] = [4 * pixel, 16 * pixel];
    for (const [ux, uy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      path.moveTo(x + ux * inner, y + uy * inner);
      path.lineTo(x + ux * outer, y + uy * outer);
    }
    this.#stroke(path, "#000000", 4);
    this.#stroke(path, "#ffffff", 2);
  }

  /** Stroke with a width in CSS pixels. */
  #stroke(path, colour, width) {
    this.context.strokeStyle = colour;
    this.context.lineWidth = width * this.pixel;
    this.context.stroke(path);
  }
}
