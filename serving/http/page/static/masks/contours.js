/**
 * Outlines of a mask along the sides of its pixels, by crack following.
 *
 * Outer rings run clockwise as the image is seen, holes the other way round; parts that touch at a
 * corner alone have rings of their own. Filling the rings by the even-odd rule gives the mask.
 */

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]];
// Of the pixels around a corner: the one ahead on the right, and the one ahead on the left.
const AHEAD_RIGHT = [[0, 0], [-1, 0], [-1, -1], [0, -1]];
const AHEAD_LEFT = [[0, -1], [0, 0], [-1, 0], [-1, -1]];

/**
 * Trace all rings of a mask.
 *
 * @param {{x: number, y: number, width: number, height: number, pixels: Uint8Array}} crop
 * @returns {{corners: [number, number][], area: number, seed: [number, number]}[]} corners in
 *   pixels of the image; `area` is negative for holes; `seed` is a point of the mask at the ring
 */
export function ringsOf(crop) {
  const { width, height, pixels } = crop;
  const isOn = (x, y) =>
    x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x] === 1;
  const visited = new Uint8Array(width * height);
  const rings = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (isOn(x, y) && !isOn(x, y - 1) && !visited[y * width + x]) {
        const corners = follow(isOn, visited, width, x, y).map(([a, b]) => [a + crop.x, b + crop.y]);
        rings.push({ corners, area: signedArea(corners), seed: [x + crop.x + 0.5, y + crop.y + 0.5] });
      }
    }
  }
  return rings;
}

function follow(isOn, visited, width, startX, startY) {
  const corners = [];
  let [x, y, direction] = [startX, startY, 0];
  do {
    if (direction === 0) visited[y * width + x] = 1;
    x += STEPS[direction][0];
    y += STEPS[direction][1];
    const [right, left] = [AHEAD_RIGHT[direction], AHEAD_LEFT[direction]];
    const turn = !isOn(x + right[0], y + right[1]) ? 1 : isOn(x + left[0], y + left[1]) ? 3 : 0;
    if (turn) corners.push([x, y]);
    direction = (direction + turn) % 4;
  } while (x !== startX || y !== startY || direction !== 0);
  return corners;
}

/**
 * Cut rings where they visit a corner again, as GeoJSON asks for rings that do not touch themselves.
 *
 * @returns rings as of `ringsOf`, which give the same mask
 */
export function simpleRings(rings) {
  return rings.flatMap(({ corners }) => cut(corners)).map((corners) => {
    const [[x, y], [nextX, nextY]] = corners;
    const [stepX, stepY] = [Math.sign(nextX - x), Math.sign(nextY - y)];
    // The mask lies on the right of each side.
    const seed = [x + (stepX - stepY) / 2, y + (stepY + stepX) / 2];
    return { corners, area: signedArea(corners), seed };
  });
}

function cut(corners) {
  const [simple, path, places] = [[], [], new Map()];
  for (const corner of corners) {
    const place = places.get(String(corner));
    if (place !== undefined) {
      const loop = path.splice(place);
      loop.forEach((gone) => places.delete(String(gone)));
      simple.push(loop);
    }
    places.set(String(corner), path.length);
    path.push(corner);
  }
  return [path, ...simple];
}

/** Area inside a ring, positive where it runs clockwise as the image is seen. */
export function signedArea(corners) {
  let twice = 0;
  corners.forEach(([x, y], index) => {
    const [nextX, nextY] = corners[(index + 1) % corners.length];
    twice += x * nextY - nextX * y;
  });
  return twice / 2;
}

/**
 * Group rings to polygons: an outer ring and its holes.
 *
 * @returns {{outer: [number, number][], holes: [number, number][][], area: number}[]} the largest
 *   first; `area` without the holes
 */
export function polygonsOf(rings) {
  const polygons = rings
    .filter((ring) => ring.area > 0)
    .map((ring) => ({ outer: ring.corners, holes: [], area: ring.area, full: ring.area }));
  polygons.sort((a, b) => a.full - b.full);
  for (const hole of rings.filter((ring) => ring.area < 0)) {
    const owner = polygons.find((polygon) => isInside(polygon.outer, hole.seed));
    owner.holes.push(hole.corners);
    owner.area += hole.area;
  }
  return polygons.sort((a, b) => b.area - a.area).map(({ full, ...polygon }) => polygon);
}

function isInside(corners, [x, y]) {
  let inside = false;
  corners.forEach(([x0, y0], index) => {
    const [x1, y1] = corners[(index + 1) % corners.length];
    if (y0 > y !== y1 > y && x < ((x1 - x0) * (y - y0)) / (y1 - y0) + x0) inside = !inside;
  });
  return inside;
}

/**
 * Path of the rings for drawing, its corners rounded by half a pixel.
 *
 * @returns {Path2D} to be filled by the even-odd rule
 */
export function pathOf(rings) {
  const path = new Path2D();
  for (const { corners } of rings) {
    corners.forEach((corner, index) => {
      const before = towards(corner, corners.at(index - 1));
      if (index === 0) path.moveTo(...before);
      else path.lineTo(...before);
      path.quadraticCurveTo(...corner, ...towards(corner, corners[(index + 1) % corners.length]));
    });
    path.closePath();
  }
  return path;
}

/** Half a pixel from a corner towards the next. */
function towards([x, y], [toX, toY]) {
  return [x + Math.sign(toX - x) / 2, y + Math.sign(toY - y) / 2];
}
