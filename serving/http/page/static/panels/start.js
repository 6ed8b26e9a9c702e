/** Ways by which an image comes into the page: a drop, a file, the clipboard, a sample. */

import { Problem } from "../service/problem.js";
import { SentImage, sendable } from "../service/sent_image.js";
import { restartNumbers } from "../state/entities.js";
import { byId, make } from "./dom.js";
import { announce, showError } from "./messages.js";

const SAMPLES = [
  ["nuclei-fluorescence.png", "Nuclei, fluorescence"],
  ["nuclei-stained.png", "Nuclei, stained"],
  ["nuclei.png", "Nuclei, faint"],
  ["photograph.jpg", "Photograph"],
];

export class Start {
  #last = null;

  /**
   * @param {import("../state/store.js").Store} store
   * @param {import("../view/viewer.js").Viewer} viewer
   * @param {import("../service/segmenter.js").Segmenter} segmenter
   */
  constructor(store, viewer, segmenter) {
    Object.assign(this, { store, viewer, segmenter });
    const file = byId("file");
    for (const id of ["open", "start-open"]) byId(id).addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      if (file.files.length) this.open(file.files[0]);
      file.value = "";
    });
    this.#takeDrops(byId("stage"));
    addEventListener("paste", ({ clipboardData }) => {
      const [pasted] = clipboardData?.files ?? [];
      if (pasted) this.open(pasted);
    });
    byId("samples").replaceChildren(...SAMPLES.map((sample) => this.#sampleOf(sample)));
  }

  /**
   * Show an image file and send it, unless another one was opened since.
   *
   * @param {File | Promise<File>} source
   */
  async open(source) {
    this.#last = source;
    try {
      const file = await source;
      if (this.#last === source) await this.#show(file, () => this.#last === source);
    } catch (error) {
      showError(error);
    }
  }

  async #show(file, isLast) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      if (!isLast()) return;
      const what = `${file.name || "image"}: got a file that this browser cannot show`;
      showError({ title: "Not shown", what, fix: "open a PNG, JPEG, WebP, GIF or BMP file; the API takes TIFF as well" });
      return;
    }
    const { width, height } = bitmap;
    const sent = new SentImage(await sendable(file, bitmap));
    if (!isLast()) {
      bitmap.close();
      return;
    }
    this.segmenter.lane.clear();
    restartNumbers();
    const image = { name: file.name || "image.png", width, height, sent };
    this.store.forgetHistory();
    this.store.set({
      image, entities: [], selectedId: null, hoveredId: null, preview: null, cursor: null, rubberBand: null,
    });
    byId("start").hidden = true;
    byId("image-name").textContent = `${image.name} · ${width} × ${height}`;
    await this.viewer.open(bitmap);
    if (!isLast()) return;
    announce(`${image.name}, ${width} by ${height} pixels`);
    this.viewer.osd.canvas.focus({ preventScroll: true });
    await this.segmenter.prepare(image);
  }

  #takeDrops(target) {
    const isFile = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => {
      if (!isFile(event)) return;
      event.preventDefault();
      target.classList.add("is-target");
    });
    addEventListener("dragleave", ({ relatedTarget }) => {
      if (!relatedTarget) target.classList.remove("is-target");
    });
    addEventListener("drop", (event) => {
      if (!isFile(event)) return;
      event.preventDefault();
      target.classList.remove("is-target");
      this.open(event.dataTransfer.files[0]);
    });
  }

  #sampleOf([name, title]) {
    const picture = make("img", { src: `page/samples/${name}`, alt: "", loading: "lazy" });
    const button = make("button", { type: "button", className: "sample" }, picture, make("span", {}, title));
    button.addEventListener("click", () => this.open(fetched(picture.src, name)));
    return make("li", {}, button);
  }
}

async function fetched(address, name) {
  const response = await fetch(address);
  if (!response.ok) throw await Problem.of(response);
  return new File([await response.blob()], name, { type: response.headers.get("Content-Type") });
}
