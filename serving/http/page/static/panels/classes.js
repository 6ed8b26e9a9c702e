/** Classes of the caller: taught by the masks that are shown, found in other images, removed. */

import { listClasses, removeClass } from "../service/api.js";
import { shownOf } from "../state/store.js";
import { byId, iconButton, make, update } from "./dom.js";
import { everythingAsked } from "./everything.js";
import { note } from "./messages.js";

export class ClassesPanel {
  #chosen = new Set();

  /**
   * @param {import("../state/store.js").Store} store
   * @param {import("../service/segmenter.js").Segmenter} segmenter
   */
  constructor(store, segmenter) {
    this.store = store;
    this.segmenter = segmenter;
    byId("teach").addEventListener("submit", (event) => this.#submit(event, () => this.#teach()));
    byId("find").addEventListener("submit", (event) => this.#submit(event, () => this.#find()));
    store.subscribe((state) => this.#show(state));
  }

  /** Fetch the list anew. */
  async load() {
    this.#take(await listClasses());
  }

  #submit(event, run) {
    event.preventDefault();
    run().catch((error) => this.#report(error));
  }

  /** What the user cancelled is no error. */
  #report(error) {
    if (error.name !== "AbortError") this.segmenter.onError(error);
  }

  async #teach() {
    const { image, classes, tileSize } = this.store.state;
    const taught = shownOf(this.store.state);
    const name = byId("class-name").value.trim();
    const request = { name, examples: [{ entities: taught.map(({ mask }) => mask.rle) }] };
    const hasExamples = classes.some(({ prototypes }) => prototypes);
    if (!hasExamples && tileSize !== null) request.tile_size = tileSize;
    const known = await this.segmenter.lane.work((signal) => image.sent.teach(request, signal));
    this.#chosen.add(name);
    this.#take(known);
    const isFirst = classes.length === 0;
    note(`“${name}” is taught by ${taught.length} masks${isFirst ? "; open another image and find it" : ""}`);
  }

  async #find() {
    const chosen = this.store.state.classes.filter(({ name }) => this.#chosen.has(name));
    const names = chosen.map(({ name }) => name);
    const isByText = chosen.some(({ prototypes }) => !prototypes);
    const count = await this.segmenter.findClasses(names, isByText ? everythingAsked() : undefined);
    if (count !== null) note(count ? `${count} entities found` : `No ${names.join(", ")} found here`);
  }

  #take({ classes }) {
    this.store.set({ classes });
  }

  #show(state) {
    const { classes, image, isBusy } = state;
    const count = shownOf(state).length;
    const isReady = Boolean(image) && !isBusy;
    byId("teach-run").disabled = !isReady || !count;
    const masks = count === 1 ? "the mask that is" : `the ${count} masks that are`;
    update(byId("teach-note"), "textContent", count ? `Taught by ${masks} shown; the rest of the image counts as background.` : "Segment all entities of the class first.");
    if (classes !== this.shown) this.#list(classes);
    const hasChosen = classes.some(({ name }) => this.#chosen.has(name));
    byId("find-run").disabled = !isReady || !hasChosen;
    update(byId("find-run"), "hidden", classes.length === 0);
  }

  #list(classes) {
    this.shown = classes;
    byId("classes").replaceChildren(...classes.map((each) => this.#row(each)));
  }

  #row({ name, prototypes, texts }) {
    const box = make("input", { type: "checkbox", checked: this.#chosen.has(name) });
    box.addEventListener("change", () => {
      this.#chosen[box.checked ? "add" : "delete"](name);
      this.#show(this.store.state);
    });
    const count = make("span", { className: "area" }, prototypes ? `${prototypes} prototypes` : texts.join(", "));
    const remove = iconButton("trash", `Remove the class ${name}`, () => this.#remove(name));
    const label = make("label", {}, box, make("span", {}, name));
    return make("li", { className: "class" }, label, count, remove);
  }

  async #remove(name) {
    try {
      this.#take(await removeClass(name));
      this.#chosen.delete(name);
      note(`“${name}” is forgotten`);
    } catch (error) {
      this.#report(error);
    }
  }
}
