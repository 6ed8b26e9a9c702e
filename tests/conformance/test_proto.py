"""The committed protobuf code is that of the committed .proto, which is documented and may grow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

from cpcsam.v1 import segmentation_pb2 as pb
from cpcsam.v1 import segmentation_pb2_grpc as pb_grpc
from tests.support.paths import ROOT

PROTOS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("cpcsam/v1/*.proto"))


def test_generated_code_equals_protos(tmp_path: Path) -> None:
    out = tmp_path / "set"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={out}", *PROTOS],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    compiled = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    assert [file.name for file in compiled if file.name not in PROTOS] == []
    for file in compiled:
        committed = descriptor_pb2.FileDescriptorProto()
        pb.DESCRIPTOR.pool.FindFileByName(file.name).CopyToProto(committed)
        for one in (file, committed):
            _drop_json_names(one.message_type)
        assert file == committed


def test_segmentation_pb2_has_all_messages() -> None:
    for path in PROTOS:
        for name in pb.DESCRIPTOR.pool.FindFileByName(path).message_types_by_name:
            assert hasattr(pb, name)


def _drop_json_names(messages: object) -> None:
    """The compiler writes out names that the runtime derives."""
    for message in messages:  # type: ignore[attr-defined]
        for field in message.field:
            field.ClearField("json_name")
        _drop_json_names(message.nested_type)


def test_extensible_fields_are_oneofs() -> None:
    assert [
        field.name for field in pb.SegmentRequest.DESCRIPTOR.oneofs_by_name["image"].fields
    ] == ["image_bytes", "image_id"]
    assert [field.name for field in pb.Mask.DESCRIPTOR.oneofs_by_name["format"].fields] == [
        "coco_rle",
        "png",
        "polygons",
    ]


def test_stubs_have_all_service_methods() -> None:
    service = pb.DESCRIPTOR.services_by_name["Segmentation"]
    assert service.full_name == "cpcsam.v1.Segmentation"
    for method in service.methods:
        assert hasattr(pb_grpc.SegmentationServicer, method.name)
