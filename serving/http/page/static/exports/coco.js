/** COCO JSON with compressed RLE, exactly the masks of the service. */

/**
 * @param {{name: string, width: number, height: number}} image
 * @param {import("../state/store.js").Entity[]} entities
 * @returns {string}
 */
export function cocoOf(image, entities) {
  const names = namesOf(entities);
  const annotations = entities.map(({ label, mask }, index) => ({
    id: index + 1,
    image_id: 1,
    category_id: names.indexOf(nameOf(label)) + 1,
    segmentation: { size: [mask.rle.size.height, mask.rle.size.width], counts: mask.rle.counts },
    bbox: [mask.box.x0, mask.box.y0, mask.box.x1 - mask.box.x0, mask.box.y1 - mask.box.y0],
    area: mask.area,
    iscrowd: 0,
    score: mask.score,
  }));
  return JSON.stringify({
    info: { description: "Masks by CPC-SAM" },
    images: [{ id: 1, file_name: image.name, width: image.width, height: image.height }],
    categories: names.map((name, index) => ({ id: index + 1, name, supercategory: "" })),
    annotations,
  });
}

/** A label, or what stands for none. */
export const nameOf = (label) => label.trim() || "entity";

/** Names of the labels, in the order in which they first occur. */
export const namesOf = (entities) => [...new Set(entities.map(({ label }) => nameOf(label)))];
