/** Where the time of the last request went. */

import { byId, make } from "./dom.js";
import { note } from "./messages.js";

const PHASES = [
  ["network", "Network", "Transfer and the HTTP front"],
  ["validate", "Checks", "Checking the request and reading the image's header"],
  ["triton", "Triton", "The model, and waiting for it"],
  ["other", "Gateway", "Everything else in the gateway"],
];

/** @param {import("../state/store.js").Store} store */
export function timingsBar(store) {
  let shown = null;
  const told = new Set();
  store.subscribe(({ timing }) => {
    if (!timing || timing === shown) return;
    shown = timing;
    show(timing);
    for (const warning of timing.warnings.filter((text) => !told.has(text))) {
      told.add(warning);
      note(warning);
    }
  });
}

function show(timing) {
  const bars = PHASES.map(([name]) => {
    const bar = make("span", { className: `phase ${name}` });
    bar.style.flexGrow = Math.max(timing[name], 0.2);
    return bar;
  });
  byId("phases").replaceChildren(...bars);
  const words = PHASES.map(([name, label, title]) =>
    make("span", { className: `legend ${name}`, title }, `${label} ${ms(timing[name])}`),
  );
  const state = timing.cached ? "image cached" : "image encoded";
  const total = make("strong", {}, `${ms(timing.elapsed)} in all`);
  byId("timing").replaceChildren(total, ...words, make("span", { className: "cached" }, state));
}

const ms = (value) => `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ms`;
