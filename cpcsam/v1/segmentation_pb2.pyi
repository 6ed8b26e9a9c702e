from cpcsam.v1 import classes_pb2 as _classes_pb2
from cpcsam.v1 import description_pb2 as _description_pb2
from cpcsam.v1 import masks_pb2 as _masks_pb2
from cpcsam.v1 import search_pb2 as _search_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union
from cpcsam.v1.classes_pb2 import ListClassesRequest as ListClassesRequest
from cpcsam.v1.classes_pb2 import ListClassesResponse as ListClassesResponse
from cpcsam.v1.classes_pb2 import ClassInfo as ClassInfo
from cpcsam.v1.classes_pb2 import AddClassRequest as AddClassRequest
from cpcsam.v1.classes_pb2 import Example as Example
from cpcsam.v1.classes_pb2 import RemoveClassRequest as RemoveClassRequest
from cpcsam.v1.description_pb2 import DescribeRequest as DescribeRequest
from cpcsam.v1.description_pb2 import DescribeResponse as DescribeResponse
from cpcsam.v1.description_pb2 import Model as Model
from cpcsam.v1.description_pb2 import Limits as Limits
from cpcsam.v1.masks_pb2 import Size as Size
from cpcsam.v1.masks_pb2 import Point as Point
from cpcsam.v1.masks_pb2 import Box as Box
from cpcsam.v1.masks_pb2 import Mask as Mask
from cpcsam.v1.masks_pb2 import CocoRle as CocoRle
from cpcsam.v1.masks_pb2 import BinaryMask as BinaryMask
from cpcsam.v1.masks_pb2 import Polygons as Polygons
from cpcsam.v1.masks_pb2 import Ring as Ring
from cpcsam.v1.masks_pb2 import LowResMask as LowResMask
from cpcsam.v1.masks_pb2 import Intensity as Intensity
from cpcsam.v1.masks_pb2 import MaskFormat as MaskFormat
from cpcsam.v1.search_pb2 import ClassSearch as ClassSearch
from cpcsam.v1.search_pb2 import Everything as Everything

DESCRIPTOR: _descriptor.FileDescriptor
MASK_FORMAT_COCO_RLE: _masks_pb2.MaskFormat
MASK_FORMAT_PNG: _masks_pb2.MaskFormat
MASK_FORMAT_POLYGONS: _masks_pb2.MaskFormat
MASK_FORMAT_NONE: _masks_pb2.MaskFormat

class MaskSelection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_SELECTION_SINGLE: _ClassVar[MaskSelection]
    MASK_SELECTION_BEST: _ClassVar[MaskSelection]
    MASK_SELECTION_ALL: _ClassVar[MaskSelection]
MASK_SELECTION_SINGLE: MaskSelection
MASK_SELECTION_BEST: MaskSelection
MASK_SELECTION_ALL: MaskSelection

class SegmentRequest(_message.Message):
    __slots__ = ("request_id", "image_bytes", "image_id", "prompts", "mask_selection", "classes", "class_search", "everything", "mask_format", "return_low_res_masks", "tile_size", "tile_overlap", "page", "channels", "intensity", "without_calibration")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MASK_SELECTION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CLASS_SEARCH_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    MASK_FORMAT_FIELD_NUMBER: _ClassVar[int]
    RETURN_LOW_RES_MASKS_FIELD_NUMBER: _ClassVar[int]
    TILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    TILE_OVERLAP_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    INTENSITY_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    image_bytes: bytes
    image_id: str
    prompts: _containers.RepeatedCompositeFieldContainer[Prompt]
    mask_selection: MaskSelection
    classes: _containers.RepeatedScalarFieldContainer[str]
    class_search: _search_pb2.ClassSearch
    everything: _search_pb2.Everything
    mask_format: _masks_pb2.MaskFormat
    return_low_res_masks: bool
    tile_size: int
    tile_overlap: float
    page: int
    channels: _containers.RepeatedScalarFieldContainer[int]
    intensity: _masks_pb2.Intensity
    without_calibration: bool
    def __init__(self, request_id: _Optional[str] = ..., image_bytes: _Optional[bytes] = ..., image_id: _Optional[str] = ..., prompts: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ..., mask_selection: _Optional[_Union[MaskSelection, str]] = ..., classes: _Optional[_Iterable[str]] = ..., class_search: _Optional[_Union[_search_pb2.ClassSearch, _Mapping]] = ..., everything: _Optional[_Union[_search_pb2.Everything, _Mapping]] = ..., mask_format: _Optional[_Union[_masks_pb2.MaskFormat, str]] = ..., return_low_res_masks: _Optional[bool] = ..., tile_size: _Optional[int] = ..., tile_overlap: _Optional[float] = ..., page: _Optional[int] = ..., channels: _Optional[_Iterable[int]] = ..., intensity: _Optional[_Union[_masks_pb2.Intensity, _Mapping]] = ..., without_calibration: _Optional[bool] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("points", "box", "mask_input", "mask")
    POINTS_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    MASK_INPUT_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[_masks_pb2.Point]
    box: _masks_pb2.Box
    mask_input: _masks_pb2.LowResMask
    mask: _masks_pb2.BinaryMask
    def __init__(self, points: _Optional[_Iterable[_Union[_masks_pb2.Point, _Mapping]]] = ..., box: _Optional[_Union[_masks_pb2.Box, _Mapping]] = ..., mask_input: _Optional[_Union[_masks_pb2.LowResMask, _Mapping]] = ..., mask: _Optional[_Union[_masks_pb2.BinaryMask, _Mapping]] = ...) -> None: ...

class SegmentStreamResponse(_message.Message):
    __slots__ = ("request_id", "response", "failure")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    response: SegmentResponse
    failure: Failure
    def __init__(self, request_id: _Optional[str] = ..., response: _Optional[_Union[SegmentResponse, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: bytes
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[bytes] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("request_id", "original_size", "results", "model_name", "model_version", "timings", "image_id", "cached", "warnings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    original_size: _masks_pb2.Size
    results: _containers.RepeatedCompositeFieldContainer[PromptResult]
    model_name: str
    model_version: str
    timings: Timings
    image_id: str
    cached: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., original_size: _Optional[_Union[_masks_pb2.Size, _Mapping]] = ..., results: _Optional[_Iterable[_Union[PromptResult, _Mapping]]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., image_id: _Optional[str] = ..., cached: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class PromptResult(_message.Message):
    __slots__ = ("masks", "found_at", "calibrated_prompt")
    MASKS_FIELD_NUMBER: _ClassVar[int]
    FOUND_AT_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_PROMPT_FIELD_NUMBER: _ClassVar[int]
    masks: _containers.RepeatedCompositeFieldContainer[_masks_pb2.Mask]
    found_at: _masks_pb2.Point
    calibrated_prompt: Prompt
    def __init__(self, masks: _Optional[_Iterable[_Union[_masks_pb2.Mask, _Mapping]]] = ..., found_at: _Optional[_Union[_masks_pb2.Point, _Mapping]] = ..., calibrated_prompt: _Optional[_Union[Prompt, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("validate_ms", "triton_ms", "total_ms")
    VALIDATE_MS_FIELD_NUMBER: _ClassVar[int]
    TRITON_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    validate_ms: float
    triton_ms: float
    total_ms: float
    def __init__(self, validate_ms: _Optional[float] = ..., triton_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...
