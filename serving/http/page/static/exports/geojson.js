/** GeoJSON in pixels of the image, as QuPath and napari read it: x to the right, y downwards. */

import { nameOf } from "./coco.js";

/** Takes what `cocoOf` takes. */
export function geojsonOf(image, entities) {
  const features = entities.map(({ id, label, colour, mask }) => ({
    type: "Feature",
    id: String(id),
    geometry: geometryOf(mask.polygons),
    properties: {
      objectType: "annotation",
      classification: { name: nameOf(label), color: rgbOf(colour) },
      score: mask.score,
      area: mask.area,
      stability: mask.stability,
    },
  }));
  return JSON.stringify({ type: "FeatureCollection", image: image.name, features });
}

function geometryOf(polygons) {
  const coordinates = polygons.map(({ outer, holes }) => [outer, ...holes].map(closed));
  if (coordinates.length === 1) return { type: "Polygon", coordinates: coordinates[0] };
  return { type: "MultiPolygon", coordinates };
}

const closed = (corners) => [...corners, corners[0]];

const rgbOf = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
