from cpcsam.v1 import masks_pb2 as _masks_pb2
from cpcsam.v1 import search_pb2 as _search_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("model", "limits", "gateway_version", "triton_version", "classes", "mask_formats", "everything", "class_search", "tile_overlap")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRITON_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    MASK_FORMATS_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    CLASS_SEARCH_FIELD_NUMBER: _ClassVar[int]
    TILE_OVERLAP_FIELD_NUMBER: _ClassVar[int]
    model: Model
    limits: Limits
    gateway_version: str
    triton_version: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    mask_formats: _containers.RepeatedScalarFieldContainer[_masks_pb2.MaskFormat]
    everything: _search_pb2.Everything
    class_search: _search_pb2.ClassSearch
    tile_overlap: float
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., gateway_version: _Optional[str] = ..., triton_version: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ..., mask_formats: _Optional[_Iterable[_Union[_masks_pb2.MaskFormat, str]]] = ..., everything: _Optional[_Union[_search_pb2.Everything, _Mapping]] = ..., class_search: _Optional[_Union[_search_pb2.ClassSearch, _Mapping]] = ..., tile_overlap: _Optional[float] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "size", "image_size", "low_res_size", "digest", "trained_model", "mask_prompts", "window", "spread", "intensity", "calibrates", "clip")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    LOW_RES_SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TRAINED_MODEL_FIELD_NUMBER: _ClassVar[int]
    MASK_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    INTENSITY_FIELD_NUMBER: _ClassVar[int]
    CALIBRATES_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    size: str
    image_size: int
    low_res_size: int
    digest: str
    trained_model: str
    mask_prompts: bool
    window: int
    spread: float
    intensity: _masks_pb2.Intensity
    calibrates: bool
    clip: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., size: _Optional[str] = ..., image_size: _Optional[int] = ..., low_res_size: _Optional[int] = ..., digest: _Optional[str] = ..., trained_model: _Optional[str] = ..., mask_prompts: _Optional[bool] = ..., window: _Optional[int] = ..., spread: _Optional[float] = ..., intensity: _Optional[_Union[_masks_pb2.Intensity, _Mapping]] = ..., calibrates: _Optional[bool] = ..., clip: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_image_bytes", "max_pixels", "max_prompts", "max_points", "max_in_flight", "image_formats", "cache_bytes", "max_queue_seconds", "max_tiles", "max_clicks", "stream_window", "max_seconds", "max_name_length", "max_examples", "max_entities")
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMATS_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TILES_FIELD_NUMBER: _ClassVar[int]
    MAX_CLICKS_FIELD_NUMBER: _ClassVar[int]
    STREAM_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_NAME_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_ENTITIES_FIELD_NUMBER: _ClassVar[int]
    max_image_bytes: int
    max_pixels: int
    max_prompts: int
    max_points: int
    max_in_flight: int
    image_formats: _containers.RepeatedScalarFieldContainer[str]
    cache_bytes: int
    max_queue_seconds: float
    max_tiles: int
    max_clicks: int
    stream_window: int
    max_seconds: float
    max_name_length: int
    max_examples: int
    max_entities: int
    def __init__(self, max_image_bytes: _Optional[int] = ..., max_pixels: _Optional[int] = ..., max_prompts: _Optional[int] = ..., max_points: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., image_formats: _Optional[_Iterable[str]] = ..., cache_bytes: _Optional[int] = ..., max_queue_seconds: _Optional[float] = ..., max_tiles: _Optional[int] = ..., max_clicks: _Optional[int] = ..., stream_window: _Optional[int] = ..., max_seconds: _Optional[float] = ..., max_name_length: _Optional[int] = ..., max_examples: _Optional[int] = ..., max_entities: _Optional[int] = ...) -> None: ...
