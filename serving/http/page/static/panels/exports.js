/** Buttons that write the shown entities to files. */

import { cocoOf } from "../exports/coco.js";
import { geojsonOf, withPixels } from "../exports/geojson.js";
import { indexPngOf } from "../exports/png.js";
import { plural, yoloOf } from "../exports/yolo.js";
import { zipOf } from "../exports/zip.js";
import { shownOf } from "../state/store.js";
import { byId, make } from "./dom.js";
import { note, showError } from "./messages.js";

const json = (text) => new Blob([text], { type: "application/json" });

const FORMATS = [
  ["COCO JSON", "coco.json", (image, shown) => json(cocoOf(image, shown))],
  ["PNG index mask", "mask.png", indexPng],
  ["YOLO-seg", "yolo.zip", yoloZip],
  ["GeoJSON", "geojson", geojson],
];

/** @param {import("../state/store.js").Store} store */
export function exportPanel(store) {
  const buttons = FORMATS.map(([title, ending, fileOf]) => {
    const button = make("button", { type: "button", className: "button", data: { format: ending } }, title);
    button.addEventListener("click", () => save(store.state, ending, fileOf).catch(showError));
    return button;
  });
  byId("exports").replaceChildren(...buttons);
  store.subscribe((state) => {
    const isEmpty = shownOf(state).length === 0;
    for (const button of buttons) button.disabled = isEmpty;
  });
}

async function save(state, ending, fileOf) {
  const { image } = state;
  const file = await fileOf(image, shownOf(state));
  const link = make("a", { href: URL.createObjectURL(file), download: `${stemOf(image)}.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function indexPng(image, shown) {
  const { file, losses } = await indexPngOf(image, shown);
  if (losses.length) note(`An index mask has one entity at each pixel. Lost are ${losses.join(", and ")}.`);
  return new Blob([file], { type: "image/png" });
}

function geojson(image, shown) {
  const empty = shown.length - withPixels(shown).length;
  if (empty) note(`GeoJSON has outlines. Lost are ${plural(empty)} without a pixel.`);
  return json(geojsonOf(image, shown));
}

function yoloZip(image, shown) {
  const { labels, data, losses } = yoloOf(image, shown);
  if (losses.length) note(`YOLO has one outline for each entity. Lost are ${losses.join(", and ")}.`);
  return zipOf({ [`labels/${stemOf(image)}.txt`]: labels, "data.yaml": data });
}

const stemOf = ({ name }) => name.replace(/\.[^.]*$/, "") || "image";
