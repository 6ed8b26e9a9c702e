/** The zoomable image: OpenSeadragon, and the overlay's canvas above it. */

import { tileSourceOf } from "./tiles.js";

const { OpenSeadragon } = globalThis;
const LARGE_PIXEL = 5;

export class Viewer {
  /** @param {HTMLElement} element an empty element that the image fills */
  constructor(element) {
    this.element = element;
    withoutInlineStyle();
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.osd = OpenSeadragon({
      element,
      drawer: "canvas",
      showNavigationControl: false,
      keyboardNavEnabled: false,
      maxZoomPixelRatio: 40,
      minZoomImageRatio: 0.5,
      visibilityRatio: 0.3,
      smoothTileEdgesMinZoom: Infinity,
      imageSmoothingEnabled: false,
      animationTime: isCalm ? 0 : 0.35,
      springStiffness: 8,
      zoomPerScroll: 1.25,
      clickTimeThreshold: Infinity, // also a click that is held, or that a busy page sees late
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false, flickEnabled: false },
      gestureSettingsPen: { clickToZoom: false, dblClickToZoom: false },
    });
    this.canvas = document.createElement("canvas");
    this.canvas.className = "overlay";
    this.canvas.setAttribute("aria-hidden", "true");
    this.osd.canvas.append(this.canvas);
    this.#describe();
    this.onMove(() => this.#smooth());
  }

  /** Show an image; resolves when it can be zoomed. */
  open(bitmap) {
    return new Promise((resolve, reject) => {
      this.osd.addOnceHandler("open", () => resolve());
      this.osd.addOnceHandler("open-failed", ({ message }) => reject(new Error(message)));
      this.osd.open(tileSourceOf(bitmap));
    });
  }

  /** Screen pixels for each pixel of the image, and where its corner lies, in CSS pixels. */
  get placement() {
    const item = this.osd.world.getItemAt(0);
    if (!item) return null;
    const corner = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const next = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(1, 0));
    return { x: corner.x, y: corner.y, scale: next.x - corner.x };
  }

  /** Place in the image of a point of the element, in CSS pixels; it may lie outside. */
  toImage({ x, y }) {
    const { placement } = this;
    if (!placement) return null;
    return { x: (x - placement.x) / placement.scale, y: (y - placement.y) / placement.scale };
  }

  zoomBy(factor) {
    this.osd.viewport.zoomBy(factor);
    this.osd.viewport.applyConstraints();
  }

  fit() {
    this.osd.viewport.goHome();
  }

  /** Bring a point of the image into view where it lies outside. */
  reveal({ x, y }) {
    const item = this.osd.world.getItemAt(0);
    const place = item.imageToViewportCoordinates(x, y);
    if (!this.osd.viewport.getBounds().containsPoint(place)) this.osd.viewport.panTo(place);
  }

  /** Brighten the image as it is shown; what is sent stays as it is. */
  brighten(factor) {
    this.osd.drawer.canvas.style.filter = factor === 1 ? "" : `brightness(${factor})`;
  }

  /** Call a function whenever the image moves on the screen. */
  onMove(listener) {
    for (const event of ["update-viewport", "resize", "open"]) this.osd.addHandler(event, listener);
  }

  /** Show single pixels where they are large. */
  #smooth() {
    const isSmooth = (this.placement?.scale ?? 1) < LARGE_PIXEL;
    if (isSmooth === this.isSmooth) return;
    this.isSmooth = isSmooth;
    this.osd.drawer.setImageSmoothingEnabled(isSmooth);
  }

  #describe() {
    const { canvas } = this.osd;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Image");
    canvas.setAttribute("aria-describedby", "image-keys");
  }
}

/** Keep OpenSeadragon from adding a style element, which the page's CSP forbids, by a stand-in. */
function withoutInlineStyle() {
  const standIn = document.createElementNS("urn:cpcsam", "style");
  standIn.setAttribute("data-openseadragon-mobile-css", "");
  document.head.append(standIn);
}
