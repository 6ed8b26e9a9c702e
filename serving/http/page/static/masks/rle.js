/**
 * Run-length encoding (RLE) of masks in COCO's compressed form: `counts` is a string, and runs are
 * pixels beside the mask and in it, by turns, column by column.
 */

/**
 * Decode a `counts` string to runs.
 *
 * @param {string} counts
 * @returns {number[]} height * width pixels in all
 */
export function runsOf(counts) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = counts.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/**
 * Decode the part of a mask in a box.
 *
 * @param {{size: {height: number, width: number}, counts: string}} rle
 * @param {{x0: number, y0: number, x1: number, y1: number}} box whole pixels
 * @returns {{x: number, y: number, width: number, height: number, pixels: Uint8Array}} 1 on the
 *   entity, row by row
 */
export function cropOf(rle, box) {
  const { height } = rle.size;
  const [x, y] = [Math.floor(box.x0), Math.floor(box.y0)];
  const [width, rows] = [Math.ceil(box.x1) - x, Math.ceil(box.y1) - y];
  const pixels = new Uint8Array(width * rows);
  let at = 0;
  runsOf(rle.counts).forEach((run, index) => {
    if (index % 2) fillRun(at, run);
    at += run;
  });
  return { x, y, width, height: rows, pixels };

  function fillRun(start, length) {
    const end = start + length;
    const last = Math.min(Math.floor((end - 1) / height), x + width - 1);
    for (let column = Math.max(Math.floor(start / height), x); column <= last; column++) {
      const top = Math.max(start - column * height, y);
      const bottom = Math.min(end - column * height, y + rows, height);
      for (let row = top; row < bottom; row++) pixels[(row - y) * width + column - x] = 1;
    }
  }
}
