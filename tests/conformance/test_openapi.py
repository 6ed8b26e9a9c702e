"""The OpenAPI document against the proto's descriptors, its metaschema and the routes."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.routing import Route

from cpcsam.v1 import segmentation_pb2 as pb
from serving.http import api
from serving.http.config import HttpConfig
from serving.http.openapi.comments import proto_comments
from serving.http.openapi.document import document_text
from serving.http.protojson import record_of_message
from tests.support.paths import ROOT

OF_STREAMS = {"SegmentStreamResponse", "Failure"}
"""Messages of SegmentStream, which HTTP does not have."""
IN_PATHS = {"RemoveClassRequest", "ListClassesRequest", "DescribeRequest"}
JSON_TYPES = {
    FieldDescriptor.CPPTYPE_BOOL: "boolean",
    FieldDescriptor.CPPTYPE_STRING: "string",
    FieldDescriptor.CPPTYPE_FLOAT: "number",
    FieldDescriptor.CPPTYPE_DOUBLE: "number",
    FieldDescriptor.CPPTYPE_INT32: "integer",
    FieldDescriptor.CPPTYPE_UINT32: "integer",
    FieldDescriptor.CPPTYPE_INT64: "integer",
    FieldDescriptor.CPPTYPE_UINT64: "integer",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(json.loads(document_text()))


def messages() -> dict[str, Descriptor]:
    """All messages of the package, by name."""
    files = [pb.DESCRIPTOR, *pb.DESCRIPTOR.dependencies]
    return {
        name: message
        for file in files
        for name, message in file.message_types_by_name.items()
        if name not in OF_STREAMS | IN_PATHS
    }


def test_every_field_of_the_proto_has_its_place_and_no_other_has_one(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    assert len(messages()) > 20
    for name, message in messages().items():
        properties = schemas[name]["properties"]
        assert properties.keys() == set(message.fields_by_name), name
        for field in message.fields:
            schema = properties[field.name]
            if field.is_repeated:
                assert schema["type"] == "array", field.full_name
                schema = schema["items"]
            kind = field.message_type or field.enum_type
            if kind is None:
                assert schema["type"] == JSON_TYPES[field.cpp_type], field.full_name
            else:
                assert schema["$ref"] == f"#/components/schemas/{kind.name}", field.full_name
                if field.enum_type is not None:
                    names = [value.name for value in kind.values]
                    assert schemas[kind.name]["enum"] == names


def test_every_comment_on_a_message_or_a_field_is_in_the_document(
    document: dict[str, Any],
) -> None:
    text = re.sub(r"\s+", " ", " ".join(_descriptions(document)))
    comments = proto_comments()
    assert comments["cpcsam.v1.Mask.stability"].startswith("How little the mask changes")
    for name, message in messages().items():
        for each in (message, *message.fields):
            comment = comments.get(each.full_name)
            if comment is not None:
                assert " ".join(comment.split()) in text, f"{name}: {each.full_name}"


def _descriptions(node: Any) -> list[str]:
    if isinstance(node, list):
        return [text for each in node for text in _descriptions(each)]
    if isinstance(node, dict):
        own = [node["description"]] if isinstance(node.get("description"), str) else []
        return own + [text for each in node.values() for text in _descriptions(each)]
    return []


def test_comments_of_the_proto_files_are_all_read() -> None:
    """Each comment but the head of a file belongs to a name that a descriptor has."""
    known = {"cpcsam.v1.Segmentation"}
    for file in [pb.DESCRIPTOR, *pb.DESCRIPTOR.dependencies]:
        for message in file.message_types_by_name.values():
            known |= {message.full_name, *(field.full_name for field in message.fields)}
            known |= {oneof.full_name for oneof in message.oneofs}
        for enum in file.enum_types_by_name.values():
            known |= {enum.full_name, *(f"{enum.full_name}.{v.name}" for v in enum.values)}
        for service in file.services_by_name.values():
            known |= {method.full_name for method in service.methods}
    found = proto_comments()
    assert found.keys() <= known
    lines = [
        line
        for path in sorted((ROOT / "cpcsam/v1").glob("*.proto"))
        for line in path.read_text().partition("package cpcsam.v1;")[2].splitlines()
    ]
    blocks = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line.strip().startswith("//") and not before.strip().startswith("//")
    ]
    assert len(found) == len(blocks)


def test_document_is_valid_openapi_and_its_schemas_are_valid(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate({**schema, "$schema": META}), name
    references = set(re.findall(r'"\$ref": "#/components/(\w+)/(\w+)"', json.dumps(document)))
    assert all(name in document["components"][kind] for kind, name in references)
    operations = [each for path in document["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations if isinstance(each, dict)]
    assert len(names) == len({*names}) == 8


META = "https://json-schema.org/draft/2020-12/schema"


def test_document_has_the_routes_of_the_api(document: dict[str, Any]) -> None:
    served = {
        (route.path_format, method.lower())
        for route in api.routes(HttpConfig())
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {
        (path, method)
        for path, operations in document["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert described == served


def test_full_answers_satisfy_their_schema(document: dict[str, Any]) -> None:
    mask = pb.Mask(area=2**52, score=0.5, polygons=pb.Polygons(rings=[pb.Ring(coordinates=[0.5])]))
    answer = pb.SegmentResponse(results=[pb.PromptResult(masks=[mask, pb.Mask()])])
    root = {**document, "$ref": "#/components/schemas/SegmentResponse"}
    validator = jsonschema_rs.Draft202012Validator(root)
    validator.validate(record_of_message(answer))
    for broken in ({}, {**record_of_message(answer), "cached": 1}):
        assert not validator.is_valid(broken)
    both = record_of_message(answer)
    both["results"][0]["masks"][0]["png"] = ""
    assert not validator.is_valid(both), "one form of a mask at most"
