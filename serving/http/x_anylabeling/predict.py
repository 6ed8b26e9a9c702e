"""Requests of X-AnyLabeling as requests of the gateway, and masks as its shapes."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.outlines import polygons_of
from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.problems import Problem, quoted
from serving.http.x_anylabeling.marks import prompts_of
from serving.http.x_anylabeling.models import CLASSES, EVERYTHING, PROMPTS, RECTANGLES

__all__ = ["Prediction", "shapes_of"]

NEW_OBJECT: Final = "AUTOLABEL_OBJECT"
"""Label of shapes that the client replaces with the next answer, until its user names them."""
UNNAMED: Final = "entity"

MASK_FORMAT: Final = {True: pb.MASK_FORMAT_NONE, False: pb.MASK_FORMAT_POLYGONS}


@dataclass(frozen=True)
class Prediction:
    """A request of the client.

    Attributes:
        request: for the gateway, with the image's id instead of the image.
        image: the image file.
        rectangles: whether boxes are wanted instead of polygons.
        epsilon_factor: tolerance of the polygons as a part of their length.
        automatic: whether the request had no prompts.

    Raises:
        Problem: 400 for a request of another form, 404 for an unknown model.
    """

    request: pb.SegmentRequest
    image: bytes
    rectangles: bool
    epsilon_factor: float
    automatic: bool

    @classmethod
    def of_json(cls, body: object, request_id: str, classes: Sequence[str]) -> Prediction:
        """Build from the JSON of a request.

        Args:
            body: decoded JSON: `model`, `image` (a data URI or base64) and `params`.
            request_id: for the gateway's log.
            classes: names of all classes, which count where the client filters none.
        """
        if not isinstance(body, Mapping):
            raise _wrong("body", type(body).__name__, "an object", "send model, image and params")
        params = body.get("params", {})
        if not isinstance(params, Mapping):
            raise _wrong("params", type(params).__name__, "an object", "leave it out")
        image = _image(body.get("image"))
        rectangles = params.get("current_task") == RECTANGLES
        request = pb.SegmentRequest(
            request_id=request_id,
            image_id=hashlib.sha256(image).hexdigest(),
            mask_format=MASK_FORMAT[rectangles],
        )
        model = body.get("model")
        _ask(request, model, params, classes)
        epsilon_factor = _fraction(params, "epsilon_factor")
        return cls(request, image, rectangles, epsilon_factor, automatic=model != PROMPTS)

    def with_image(self) -> pb.SegmentRequest:
        """Return the request with the image itself, for a gateway that does not know it."""
        request = pb.SegmentRequest()
        request.CopyFrom(self.request)
        request.image_bytes = self.image
        return request


def shapes_of(prediction: Prediction, response: pb.SegmentResponse) -> dict[str, Any]:
    """Convert a response to the shapes of the client, for JSON.

    The parts of an entity of several polygons share a `group_id`.
    """
    shapes = []
    for number, result in enumerate(response.results, start=1):
        mask = result.masks[0]
        if not mask.area:
            continue
        if prediction.rectangles:
            shapes.append(_shape(prediction, mask, "rectangle", _corners(mask.box), None))
            continue
        rings = [np.reshape(ring.coordinates, (-1, 2)) for ring in mask.polygons.rings]
        polygons = polygons_of(rings, prediction.epsilon_factor)
        group_id = number if len(polygons) > 1 else None
        shapes += [
            _shape(prediction, mask, "polygon", _closed(polygon), group_id) for polygon in polygons
        ]
    # Null leaves it to the client whether found entities replace what is on the image.
    return {
        "shapes": shapes,
        "description": "",
        "replace": None if prediction.automatic else False,
    }


def _ask(
    request: pb.SegmentRequest, model: object, params: Mapping[str, Any], classes: Sequence[str]
) -> None:
    """Set what to segment, by the model and its parameters."""
    if model == PROMPTS:
        request.prompts.extend(prompts_of(params.get("marks", [])))
    elif model == EVERYTHING:
        request.everything.SetInParent()
        # The client sends 0 for thresholds that nobody set.
        if conf_threshold := _fraction(params, "conf_threshold"):
            request.everything.min_iou = conf_threshold
        if iou_threshold := _fraction(params, "iou_threshold"):
            request.everything.max_box_iou = iou_threshold
    elif model == CLASSES:
        request.classes.extend(_names(params) or classes)
        if conf_threshold := _fraction(params, "conf_threshold"):
            request.class_search.threshold = conf_threshold
    else:
        expected = f"{PROMPTS}, {EVERYTHING} or {CLASSES}"
        detail = f"model: got {quoted(model)}, expected {expected}; reload the models of the server"
        raise Problem.of(404, "NOT_FOUND", detail, field="model")


def _names(params: Mapping[str, Any]) -> list[str]:
    names = params.get("filter_classes") or []
    # JSON may hold half a character, which protobuf does not take.
    if isinstance(names, list) and all(isinstance(name, str) and _is_utf8(name) for name in names):
        return names
    raise _wrong("params.filter_classes", quoted(names), "a list of names", "leave it out")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fraction(params: Mapping[str, Any], name: str) -> float:
    value = params.get(name) or 0.0
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    raise _wrong(f"params.{name}", quoted(value), "a number from 0 to 1", "leave it out")


def _image(text: object) -> bytes:
    """Decode a data URI, or base64 alone; no other URI is read."""
    fix = "send a file as data:image/png;base64,..."
    if not isinstance(text, str) or not text:
        raise _wrong("image", type(text).__name__, "a data URI", fix)
    head, comma, content = text.rpartition(",")
    if comma and not (head.startswith("data:") and head.endswith(";base64")):
        raise _wrong("image", quoted(head), "a data URI in base64", fix)
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong("image", str(error), "a data URI in base64", fix) from error


def _shape(
    prediction: Prediction,
    mask: pb.Mask,
    shape_type: str,
    points: list[list[float]],
    group_id: int | None,
) -> dict[str, Any]:
    unnamed = UNNAMED if prediction.automatic else NEW_OBJECT
    return {
        "label": mask.label or unnamed,
        "shape_type": shape_type,
        "points": points,
        "score": min(max(mask.score, 0.0), 1.0),
        "group_id": group_id,
    }


def _closed(polygon: NDArray[np.float64]) -> list[list[float]]:
    """Return the points of a polygon, the first again at its end, by which the client closes it."""
    points: list[list[float]] = [*polygon.tolist(), polygon[0].tolist()]
    return points


def _corners(box: pb.Box) -> list[list[float]]:
    return [[box.x0, box.y0], [box.x1, box.y0], [box.x1, box.y1], [box.x0, box.y1]]


def _wrong(field: str, got: str, expected: str, fix: str) -> Problem:
    detail = f"{field}: got {got}, expected {expected}; {fix}"
    return Problem.of(400, "INVALID_ARGUMENT", detail, field=field)
