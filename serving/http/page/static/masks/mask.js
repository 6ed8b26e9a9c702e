/** A mask of the service with all that the page derives from it, computed when first wanted. */

import { pathOf, polygonsOf, ringsOf } from "./contours.js";
import { cropOf } from "./rle.js";

export class Mask {
  #crop;
  #rings;
  #path;
  #polygons;

  /** @param {object} mask message `Mask` with `coco_rle` */
  constructor(mask) {
    this.rle = mask.coco_rle;
    this.box = mask.box ?? { x0: 0, y0: 0, x1: 0, y1: 0 };
    this.score = mask.score;
    this.area = Number(mask.area);
    this.stability = mask.stability;
    this.label = mask.label ?? "";
  }

  /** Pixels in the mask's box, as `cropOf` gives them. */
  get crop() {
    return (this.#crop ??= cropOf(this.rle, this.box));
  }

  get rings() {
    return (this.#rings ??= ringsOf(this.crop));
  }

  get polygons() {
    return (this.#polygons ??= polygonsOf(this.rings));
  }

  get path() {
    return (this.#path ??= pathOf(this.rings));
  }

  /** Tell whether a point, in pixels of the image, lies on the mask. */
  covers(x, y) {
    const { crop } = this;
    const [column, row] = [Math.floor(x) - crop.x, Math.floor(y) - crop.y];
    if (column < 0 || row < 0 || column >= crop.width || row >= crop.height) return false;
    return crop.pixels[row * crop.width + column] === 1;
  }
}
