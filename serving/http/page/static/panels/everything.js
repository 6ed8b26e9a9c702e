/** The form of everything mode, with the server's defaults. */

import { byId } from "./dom.js";
import { note } from "./messages.js";

// The compact base predicts lower scores than SAM, for which the server's defaults are, and is often
// served by a CPU.
const COMPACT = { min_iou: 0.5, min_stability: 0.5, points_per_side: 8 };

/**
 * @param {import("../state/store.js").Store} store
 * @param {import("../service/segmenter.js").Segmenter} segmenter
 */
export function everythingPanel(store, segmenter) {
  const form = byId("everything");
  let isFilled = false;
  store.subscribe(({ service, image, isBusy }) => {
    byId("everything-run").disabled = !image || isBusy;
    if (!service || isFilled) return;
    isFilled = true;
    const defaults = { ...service.everything, ...(service.model.size === "vit_t" && COMPACT) };
    for (const input of form.querySelectorAll("input")) {
      input.value ||= Number((defaults[input.name] ?? 0).toFixed(3));
    }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!store.state.image) return;
    const count = await segmenter.findEverything(everythingAsked());
    if (count !== null) note(count ? `${count} entities found` : "Nothing found; lower the thresholds");
  });
}

/** What the form asks for, message `Everything`; a field that is empty has the server's default. */
export function everythingAsked() {
  const fields = [...new FormData(byId("everything"))].filter(([, value]) => value !== "");
  return Object.fromEntries(fields.map(([name, value]) => [name, Number(value)]));
}
