/**
 * The one lane of the page's requests: never more than one is in work.
 *
 * Work that the user asked for waits its turn. A preview is the least of all: of many, only the last
 * is kept until the lane is free, and it is aborted as soon as there is work.
 */
export class Lane {
  #queue = [];
  #preview = null;
  #running = null;

  /** @param {(isBusy: boolean) => void} onBusy told when work begins, and when none is left */
  constructor(onBusy = () => {}) {
    this.onBusy = onBusy;
  }

  /**
   * Do work when its turn comes.
   *
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} run
   * @returns {Promise<T>}
   */
  work(run) {
    this.cancelPreview();
    return new Promise((resolve, reject) => {
      this.#queue.push({ run, resolve, reject, isPreview: false });
      this.#next();
    });
  }

  /** Do this when the lane is free, unless another preview or work comes first. */
  preview(run) {
    this.#preview = { run, resolve() {}, reject() {}, isPreview: true };
    this.#next();
  }

  /** Forget the preview that waits, and abort the one in work. */
  cancelPreview() {
    this.#preview = null;
    if (this.#running?.isPreview) this.#running.controller.abort();
  }

  /** Abort everything, as when the image is exchanged. */
  clear() {
    this.cancelPreview();
    const aborted = new DOMException("superseded", "AbortError");
    for (const task of this.#queue.splice(0)) task.reject(aborted);
    this.#running?.controller.abort();
  }

  async #next() {
    if (this.#running) return;
    const task = this.#queue.shift() ?? this.#preview;
    if (!task) return;
    if (task === this.#preview) this.#preview = null;
    this.#running = { ...task, controller: new AbortController() };
    if (!task.isPreview) this.onBusy(true);
    try {
      task.resolve(await task.run(this.#running.controller.signal));
    } catch (error) {
      task.reject(error);
    } finally {
      this.#running = null;
      if (!task.isPreview && !this.#queue.length) this.onBusy(false);
      this.#next();
    }
  }
}
