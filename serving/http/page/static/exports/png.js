/**
 * PNG index mask: 0 is background and i the i-th entity. It has a palette of the entities' colours up
 * to 255 entities, and above that 16 bits of grey. Where masks overlap, the smaller one is on top.
 */

import { crc32 } from "./crc32.js";
import { plural } from "./yolo.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const [GREY, PALETTE] = [0, 3];

/**
 * Takes what `cocoOf` takes.
 *
 * @returns {Promise<{file: Uint8Array, losses: string[]}>} a PNG file, and a sentence for each thing
 *   that it cannot hold
 */
export async function indexPngOf(image, entities) {
  const isWide = entities.length > 255;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, image.width);
  header.setUint32(4, image.height);
  header.setUint8(8, isWide ? 16 : 8);
  header.setUint8(9, isWide ? GREY : PALETTE);
  const indices = indicesOf(image, entities);
  const rows = rowsOf(indices, image, isWide);
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", new Uint8Array(header.buffer)),
    ...(isWide ? [] : [chunk("PLTE", paletteOf(entities))]),
    chunk("IDAT", await deflate(rows)),
    chunk("IEND", new Uint8Array()),
  ];
  const file = new Uint8Array(await new Blob(parts).arrayBuffer());
  return { file, losses: lossesOf(indices, entities) };
}

function lossesOf(indices, entities) {
  const seen = new Uint32Array(entities.length + 1);
  for (const value of indices) seen[value] += 1;
  const count = (test) => entities.filter(({ mask }, index) => test(seen[index + 1], mask.area)).length;
  const partly = count((pixels, area) => pixels && pixels < area);
  const wholly = count((pixels, area) => !pixels && area);
  const empty = count((_, area) => !area);
  return [
    partly && `parts of ${plural(partly)} below smaller ones`,
    wholly && `${plural(wholly)} wholly below others`,
    empty && `${plural(empty)} without a pixel`,
  ].filter(Boolean);
}

/** Index of the entity at each pixel, row by row. */
function indicesOf(image, entities) {
  const indices = new Uint16Array(image.width * image.height);
  const order = entities.map((entity, index) => ({ mask: entity.mask, value: index + 1 }));
  order.sort((a, b) => b.mask.area - a.mask.area);
  for (const { mask, value } of order) {
    const { x, y, width, pixels } = mask.crop;
    pixels.forEach((isOn, at) => {
      const row = Math.floor(at / width);
      if (isOn) indices[(y + row) * image.width + x + (at - row * width)] = value;
    });
  }
  return indices;
}

/** Rows of a PNG, each after the number of its filter, 0. */
function rowsOf(indices, { width, height }, isWide) {
  const size = isWide ? 2 : 1;
  const rows = new Uint8Array(height * (1 + width * size));
  indices.forEach((value, at) => {
    const row = Math.floor(at / width);
    const place = row * (1 + width * size) + 1 + (at - row * width) * size;
    if (isWide) rows.set([value >> 8, value & 255], place);
    else rows[place] = value;
  });
  return rows;
}

function paletteOf(entities) {
  const colours = ["#000000", ...entities.map(({ colour }) => colour)];
  return Uint8Array.from(colours.flatMap((colour) =>
    [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)),
  ));
}

function chunk(type, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc32(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
