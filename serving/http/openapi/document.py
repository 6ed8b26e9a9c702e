"""The document: paths, parameters, bodies and answers."""

from __future__ import annotations

import json
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor

import cpcsam
from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.openapi.comments import PACKAGE, proto_comments
from serving.http.openapi.schemas import reference_to, schemas_of
from serving.http.problems import MEDIA_TYPE, STATUSES

__all__ = ["document_text"]

Schema = dict[str, Any]
SERVICE: Final = f"{PACKAGE}.Segmentation"
JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
BINARY: Final = "application/octet-stream"
MAX_EXAMPLES: Final = 8
"""Parts `image0`, `image1` and so on that the document names; more are taken as well."""
STATUS: Final = "status"
INTRODUCTION: Final = """\
The gRPC API of CPC-SAM as JSON: protobuf's JSON mapping with the proto's own field names. Bytes are
base64 strings, enums are names (numbers are taken as well), and integers are JSON numbers, also
those of 64 bits. In answers, fields without presence are always there.

Coordinates are pixels of the original image as (x, y), its top left corner being (0, 0)."""
ANSWERS: Final = {
    400: "The request can never succeed; `field` names what is at fault.",
    401: "No token, or an unknown one.",
    403: "The token may not do this, or a page of another origin asks.",
    404: "An image_id or a class that is not known, or no longer.",
    408: "The body did not come in time.",
    409: "The class is known already, or the server is not in a state to do this.",
    413: "The body is too large.",
    415: "The body is neither JSON nor a form.",
    429: "Over a limit of DescribeResponse.limits; or the server is full, see Retry-After.",
    500: "A fault of the server.",
    503: "The gateway, or the inference server behind it, is away; see Retry-After.",
    504: "No answer in time.",
}
READING: Final = (401, 403, 429, 500, 503, 504)
BODY: Final = (400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)
PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEXc3NwoKCi+quDqAAAAPklEQVR42o3NoQ2AMABFwesP"
    "orIjMAqjMwojIEtCKBoDmHMvrwzEO0cTvYv9FNsl1vGZLUXMEW0StSp/bg9uu+QLRoYwI+4AAAAASUVORK5CYII="
)
"""A disc of 8 pixels around (16, 14) in an image of 32 x 32 pixels, for the examples."""
DISC: Final = {
    "size": {"height": 32, "width": 32},
    "counts": "[97h02N2N2N2O000000000001N2N2N2Nf7",
}
CLICK: Final = {"points": [{"x": 16, "y": 14}]}
SEGMENT: Final = cast(Descriptor, pb.SegmentRequest.DESCRIPTOR)
ADD: Final = cast(Descriptor, pb.AddClassRequest.DESCRIPTOR)
SEGMENTED: Final = cast(Descriptor, pb.SegmentResponse.DESCRIPTOR)
CLASSES: Final = cast(Descriptor, pb.ListClassesResponse.DESCRIPTOR)
DESCRIBED: Final = cast(Descriptor, pb.DescribeResponse.DESCRIPTOR)


def document_text() -> bytes:
    """Return the OpenAPI document as JSON."""
    return json.dumps(_document(), ensure_ascii=False).encode()


def _document() -> Schema:
    comments = proto_comments()
    schemas = schemas_of((SEGMENT, ADD), (SEGMENTED, CLASSES, DESCRIBED), comments)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CPC-SAM",
            "version": cpcsam.__version__,
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(comments),
        "components": {
            "schemas": {**schemas, "Problem": _problem(), "Status": _status()},
            "parameters": _parameters(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The password is the token; the user is ignored.",
                },
            },
        },
        "security": [{}, {"bearer": []}, {"basic": []}],
    }


def _paths(comments: dict[str, str]) -> Schema:
    def rpc(name: str) -> str:
        return comments[f"{SERVICE}.{name}"]

    everything: Schema = {
        "allOf": [reference_to(SEGMENT)],
        "properties": {"prompts": {"maxItems": 0}, "classes": {"maxItems": 0}},
    }
    name: Schema = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": "Name of the class.",
    }
    return {
        "/v1/segment": {
            "post": _operation(
                "segment",
                rpc("Segment"),
                SEGMENTED,
                BODY,
                _body(reference_to(SEGMENT), {"image_bytes": PNG, "prompts": [CLICK]}, "image"),
            )
        },
        "/v1/everything": {
            "post": _operation(
                "everything",
                "Segments everything in one image: Segment without prompts and classes; "
                "`everything` is optional.",
                SEGMENTED,
                BODY,
                _body(
                    everything,
                    {"image_bytes": PNG, "everything": {"points_per_side": 4, "min_iou": 0.5}},
                    "image",
                ),
            )
        },
        "/v1/classes": {
            "get": _operation("listClasses", rpc("ListClasses"), CLASSES, (*READING, 409)),
            "post": _operation(
                "addClass",
                rpc("AddClass"),
                CLASSES,
                (*BODY, 409),
                _body(
                    reference_to(ADD),
                    {"name": "disc", "examples": [{"image_bytes": PNG, "entities": [DISC]}]},
                    *(f"image{index}" for index in range(MAX_EXAMPLES)),
                ),
            ),
        },
        "/v1/classes/{name}": {
            "delete": _operation(
                "removeClass", rpc("RemoveClass"), CLASSES, (*READING, 400, 404, 409)
            ),
            "parameters": [name],
        },
        "/v1/describe": {"get": _operation("describe", rpc("Describe"), DESCRIBED, READING)},
        "/health/live": {"get": _health("live", "Whether the process runs.", ())},
        "/health/ready": {"get": _health("ready", "Whether the gateway can answer.", (503,))},
    }


def _operation(
    name: str,
    description: str,
    answer: Descriptor,
    failures: tuple[int, ...],
    body: Schema | None = None,
) -> Schema:
    answers: Schema = {
        "200": {"description": "The answer.", "content": {JSON: {"schema": reference_to(answer)}}}
    }
    if name in ("listClasses", "describe"):
        failures = (400, *failures)  # a time limit that is none
    operation: Schema = {
        "operationId": name,
        "description": description,
        "parameters": [
            {"$ref": "#/components/parameters/timeout"},
            {"$ref": "#/components/parameters/requestId"},
        ],
        "responses": answers | _failures(failures),
    }
    if body is not None:
        operation["requestBody"] = body
    return operation


def _health(name: str, description: str, failures: tuple[int, ...]) -> Schema:
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Status"}}}
    return {
        "operationId": name,
        "description": description,
        "security": [{}],
        "responses": {"200": {"description": "It is.", "content": content}} | _failures(failures),
    }


def _failures(statuses: tuple[int, ...]) -> Schema:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        str(status): {"description": ANSWERS[status], "content": content}
        for status in sorted(statuses)
    }


def _body(schema: Schema, example: Schema, *images: str) -> Schema:
    parts: Schema = {name: {"type": "string", "contentMediaType": BINARY} for name in images}
    form = {"type": "object", "properties": {**parts, "request": schema}}
    encoding = {"request": {"contentType": JSON}}
    return {
        "required": True,
        "content": {
            JSON: {"schema": schema, "example": example},
            FORM: {"schema": form, "encoding": encoding},
        },
    }


def _parameters() -> Schema:
    return {
        "timeout": {
            "name": "X-Request-Timeout",
            "in": "header",
            "description": "Seconds after which the answer is useless; 60 at most by default.",
            "schema": {"type": "number", "exclusiveMinimum": 0, "default": 60},
        },
        "requestId": {
            "name": "X-Request-Id",
            "in": "header",
            "description": "Repeated in the answer and in logs; by default a random one.",
            "schema": {"type": "string", "pattern": "^[ -~]{1,128}$"},
        },
    }


def _problem() -> Schema:
    text: Schema = {"type": "string"}
    return {
        "type": "object",
        "description": "Problem details (RFC 9457).",
        "properties": {
            "type": {**text, "format": "uri-reference"},
            "title": text,
            STATUS: {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {**text, "description": "What: got, expected; fix."},
            "code": {**text, "description": "Name of the gRPC status.", "enum": [*STATUSES]},
            "field": {**text, "description": "Field at fault, such as prompts[0].box."},
            "retry_after_s": {"type": "number", "exclusiveMinimum": 0},
            "request_id": text,
        },
        "required": ["type", "title", STATUS, "detail", "code", "request_id"],
    }


def _status() -> Schema:
    return {
        "type": "object",
        "properties": {STATUS: {"type": "string", "enum": ["live", "ready"]}},
        "required": [STATUS],
    }
