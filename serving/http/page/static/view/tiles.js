/** Tiles of an image in the browser's memory, for OpenSeadragon. */

const TILE = 512;
const LARGEST_WHOLE = 4096;

/**
 * Build a tile source: one tile up to 4096 pixels, and above that tiles of a pyramid.
 *
 * @param {ImageBitmap} bitmap
 */
export function tileSourceOf(bitmap) {
  const { width, height } = bitmap;
  const side = Math.max(width, height);
  const isTiled = side > LARGEST_WHOLE;
  const maxLevel = Math.ceil(Math.log2(side));
  const levels = new Map([[maxLevel, bitmap]]);
  const tileSize = isTiled ? TILE : side;
  return {
    width, height, maxLevel, tileOverlap: 0, tileWidth: tileSize, tileHeight: tileSize,
    minLevel: isTiled ? Math.ceil(Math.log2(TILE)) : maxLevel,
    getTileUrl: (level, x, y) => `memory:${level}/${x}/${y}`,
    getTilePostData: (level, x, y) => ({ level, x, y }),
    downloadTileStart(job) {
      const { level, x, y } = job.postData;
      job.finish(tileOf(levelOf(levels, level), x, y, tileSize), null, "context2d");
    },
    downloadTileAbort() {},
  };
}

/** Image of a level, made from the next larger one by halving. */
function levelOf(levels, level) {
  if (!levels.has(level)) {
    const larger = levelOf(levels, level + 1);
    levels.set(level, drawn(Math.ceil(larger.width / 2), Math.ceil(larger.height / 2), (context, width, height) => {
      context.imageSmoothingQuality = "high";
      context.drawImage(larger, 0, 0, width, height);
    }).canvas);
  }
  return levels.get(level);
}

function tileOf(image, x, y, size) {
  const [left, top] = [x * size, y * size];
  const [width, height] = [Math.min(size, image.width - left), Math.min(size, image.height - top)];
  return drawn(width, height, (context) => {
    context.drawImage(image, left, top, width, height, 0, 0, width, height);
  });
}

function drawn(width, height, draw) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  draw(context, width, height);
  return context;
}
