/** An image that is named by its digest once it was sent. */

import { call } from "./api.js";

// Browsers turn images by EXIF in JPEG and PNG alone, the service by these as well.
const TURNS = [
  /tiff:Orientation\s*(=\s*["']|>)\s*[2-8]/,
  /^RIFF.{4}WEBP.*EXIF/s,
  /^.PNG.*Raw profile type exif/s,
];

/**
 * What to send of an image: the file, or the picture that the page shows where the service might
 * turn the file otherwise.
 *
 * @param {File} file
 * @param {ImageBitmap} bitmap of the file
 */
export async function sendable(file, bitmap) {
  const text = new TextDecoder("latin1").decode(await file.arrayBuffer());
  if (!TURNS.some((turn) => turn.test(text))) return file;
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new File([await canvas.convertToBlob()], file.name, { type: "image/png" });
}

export class SentImage {
  /** @param {Blob} file an encoded image */
  constructor(file) {
    this.file = file;
    this.id = "";
  }

  /**
   * Segment in the image; where the server does not know it, or not in these tiles, send it.
   *
   * @param {string} path "v1/segment" or "v1/everything"
   * @param {object} request SegmentRequest without its image
   * @param {AbortSignal} [signal]
   */
  async ask(path, request, signal) {
    // Classes by text are compared with pixels, which the server does not keep.
    const byText = request.classes && request.everything;
    if (this.id && !byText) {
      try {
        return await this.recall(path, request, signal);
      } catch (error) {
        if (error.code !== "NOT_FOUND") throw error;
      }
    }
    const response = await call("POST", path, this.#form("image", request), signal);
    this.id = response.image_id;
    return response;
  }

  /** As `ask`, of what the server knows alone: the image is not sent. */
  recall(path, request, signal) {
    return call("POST", path, { ...request, image_id: this.id }, signal);
  }

  /**
   * Teach a class by this image. It is always sent, as the server may know its parts in other tiles.
   *
   * @param {object} request AddClassRequest with one example without its image
   * @param {AbortSignal} [signal]
   */
  teach(request, signal) {
    return call("POST", "v1/classes", this.#form("image0", request), signal);
  }

  #form(part, request) {
    const form = new FormData();
    form.append("request", new Blob([JSON.stringify(request)], { type: "application/json" }));
    form.append(part, this.file, this.file.name ?? "image");
    return form;
  }
}
