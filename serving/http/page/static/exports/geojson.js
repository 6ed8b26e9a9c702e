/** GeoJSON in pixels of the image, as QuPath and napari read it: x to the right, y downwards. */

import { polygonsOf, simpleRings } from "../masks/contours.js";
import { nameOf } from "./coco.js";

/** Takes what `cocoOf` takes. */
export function geojsonOf(image, entities) {
  const features = withPixels(entities).map(({ id, label, colour, mask }) => ({
    type: "Feature",
    id: String(id),
    geometry: geometryOf(polygonsOf(simpleRings(mask.rings))),
    properties: {
      objectType: "annotation",
      classification: { name: nameOf(label), color: rgbOf(colour) },
      measurements: { score: mask.score, area: mask.area, stability: mask.stability },
    },
  }));
  const { name, width, height } = image;
  const about = { file_name: name, size: [height, width] };
  return JSON.stringify({ type: "FeatureCollection", image: about, features });
}

/** Entities that GeoJSON can hold. */
export const withPixels = (entities) => entities.filter(({ mask }) => mask.polygons.length);

function geometryOf(polygons) {
  const coordinates = polygons.map(({ outer, holes }) => [outer, ...holes].map(closed));
  if (coordinates.length === 1) return { type: "Polygon", coordinates: coordinates[0] };
  return { type: "MultiPolygon", coordinates };
}

const closed = (corners) => [...corners, corners[0]];

const rgbOf = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
