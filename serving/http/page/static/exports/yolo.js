/** YOLO segmentation labels: a line for each entity with its class and one outline, from 0 to 1. */

import { nameOf, namesOf } from "./coco.js";

// Place within a pixel, from its corner: nearly its centre, but not rounded up.
const WITHIN = 0.49;
const DIGITS = 8;

/**
 * Takes what `cocoOf` takes. Corners are pixels of the mask, as Ultralytics cuts them to whole pixels
 * and fills an outline with its boundary.
 *
 * @returns {{labels: string, data: string, losses: string[]}} the lines, the `data.yaml` with the
 *   names, and a sentence for each thing that the format cannot hold
 */
export function yoloOf(image, entities) {
  const names = namesOf(entities);
  const lines = entities
    .filter(({ mask }) => mask.polygons.length)
    .map(({ label, mask }) => {
      const shares = boundaryOf(mask.polygons[0].outer).flatMap(([x, y]) => [
        (x + WITHIN) / image.width, (y + WITHIN) / image.height,
      ]);
      const numbers = shares.map((value) => Number(value.toPrecision(DIGITS)));
      return [names.indexOf(nameOf(label)), ...numbers].join(" ");
    });
  const quoted = names.map((name, index) => `  ${index}: ${JSON.stringify(name)}\n`);
  return {
    labels: lines.map((line) => `${line}\n`).join(""),
    data: `path: .\ntrain: images\nval: images\nnames:\n${quoted.join("")}`,
    losses: lossesOf(entities.map(({ mask }) => mask.polygons), lines.length - new Set(lines).size),
  };
}

/** Pixels of the mask along an outer ring, which runs clockwise along their sides; at least three. */
function boundaryOf(corners) {
  const pixels = [];
  const add = (x, y) => {
    const [lastX, lastY] = pixels.at(-1) ?? [];
    if (x !== lastX || y !== lastY) pixels.push([x, y]);
  };
  corners.forEach(([x, y], index) => {
    const [toX, toY] = corners[(index + 1) % corners.length];
    const [afterX, afterY] = corners[(index + 2) % corners.length];
    const [stepX, stepY] = [Math.sign(toX - x), Math.sign(toY - y)];
    // The mask lies on the right of the ring: below where that runs to the right, and so on.
    const [right, down] = [stepX < 0 || stepY > 0 ? -1 : 0, stepX < 0 || stepY < 0 ? -1 : 0];
    add(x + right, y + down);
    add(toX - stepX + right, toY - stepY + down);
    const isLeftTurn = stepX * Math.sign(afterY - toY) - stepY * Math.sign(afterX - toX) < 0;
    // Round the corner, not across it.
    if (isLeftTurn) add(toX + right, toY + down);
  });
  while (pixels.length < 3) pixels.push(pixels[0]);
  return pixels;
}

function lossesOf(masks, repeated) {
  const count = (test) => masks.filter(test).length;
  const holed = count(([largest]) => largest?.holes.length);
  const parted = count((polygons) => polygons.length > 1);
  const empty = count((polygons) => !polygons.length);
  return [
    holed && `the holes of ${plural(holed)}, which are filled`,
    parted && `all but the largest part of ${plural(parted)}`,
    empty && `${plural(empty)} without a pixel`,
    repeated && `${plural(repeated)} equal to another, of which Ultralytics reads one`,
  ].filter(Boolean);
}

export const plural = (count) => (count === 1 ? "1 mask" : `${count} masks`);
