/** YOLO segmentation labels: a line for each entity with its class and one outline, from 0 to 1. */

import { nameOf, namesOf } from "./coco.js";

/**
 * Takes what `cocoOf` takes.
 *
 * @returns {{labels: string, data: string, losses: string[]}} the lines, the `data.yaml` with the
 *   names, and a sentence for each thing that the format cannot hold
 */
export function yoloOf(image, entities) {
  const names = namesOf(entities);
  const lines = entities
    .filter(({ mask }) => mask.polygons.length)
    .map(({ label, mask }) => {
      const corners = mask.polygons[0].outer.flatMap(([x, y]) => [x / image.width, y / image.height]);
      return [names.indexOf(nameOf(label)), ...corners.map((value) => value.toFixed(6))].join(" ");
    });
  const quoted = names.map((name, index) => `  ${index}: ${JSON.stringify(name)}\n`);
  return {
    labels: lines.map((line) => `${line}\n`).join(""),
    data: `path: .\ntrain: images\nval: images\nnames:\n${quoted.join("")}`,
    losses: lossesOf(entities.map(({ mask }) => mask.polygons)),
  };
}

function lossesOf(masks) {
  const count = (test) => masks.filter(test).length;
  const holed = count(([largest]) => largest?.holes.length);
  const parted = count((polygons) => polygons.length > 1);
  const empty = count((polygons) => !polygons.length);
  return [
    holed && `the holes of ${plural(holed)}, which are filled`,
    parted && `all but the largest part of ${plural(parted)}`,
    empty && `${plural(empty)} without a pixel`,
  ].filter(Boolean);
}

const plural = (count) => (count === 1 ? "1 mask" : `${count} masks`);
