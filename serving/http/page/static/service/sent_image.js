/** An image that is sent once and named by its digest afterwards. */

import { call } from "./api.js";

export class SentImage {
  /** @param {Blob} file an encoded image */
  constructor(file) {
    this.file = file;
    this.id = "";
  }

  /**
   * Segment in the image; where the server does not know it (any more), send it.
   *
   * @param {string} path "v1/segment" or "v1/everything"
   * @param {object} request SegmentRequest without its image
   * @param {AbortSignal} [signal]
   */
  async ask(path, request, signal) {
    if (this.id) {
      try {
        return await call("POST", path, { ...request, image_id: this.id }, signal);
      } catch (error) {
        if (error.code !== "NOT_FOUND") throw error;
        this.id = "";
      }
    }
    const response = await call("POST", path, this.#form("image", request), signal);
    this.id = response.image_id;
    return response;
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
