from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MaskSelection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_SELECTION_SINGLE: _ClassVar[MaskSelection]
    MASK_SELECTION_BEST: _ClassVar[MaskSelection]
    MASK_SELECTION_ALL: _ClassVar[MaskSelection]
MASK_SELECTION_SINGLE: MaskSelection
MASK_SELECTION_BEST: MaskSelection
MASK_SELECTION_ALL: MaskSelection

class SegmentRequest(_message.Message):
    __slots__ = ("request_id", "image_bytes", "image_id", "prompts", "mask_selection", "classes", "class_search")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MASK_SELECTION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CLASS_SEARCH_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    image_bytes: bytes
    image_id: str
    prompts: _containers.RepeatedCompositeFieldContainer[Prompt]
    mask_selection: MaskSelection
    classes: _containers.RepeatedScalarFieldContainer[str]
    class_search: ClassSearch
    def __init__(self, request_id: _Optional[str] = ..., image_bytes: _Optional[bytes] = ..., image_id: _Optional[str] = ..., prompts: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ..., mask_selection: _Optional[_Union[MaskSelection, str]] = ..., classes: _Optional[_Iterable[str]] = ..., class_search: _Optional[_Union[ClassSearch, _Mapping]] = ...) -> None: ...

class ClassSearch(_message.Message):
    __slots__ = ("threshold", "min_similarity", "min_iou", "overlap")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MIN_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    MIN_IOU_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    min_similarity: float
    min_iou: float
    overlap: float
    def __init__(self, threshold: _Optional[float] = ..., min_similarity: _Optional[float] = ..., min_iou: _Optional[float] = ..., overlap: _Optional[float] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("points", "box")
    POINTS_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[Point]
    box: Box
    def __init__(self, points: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., box: _Optional[_Union[Box, _Mapping]] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y", "background")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    background: bool
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., background: _Optional[bool] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x0", "y0", "x1", "y1")
    X0_FIELD_NUMBER: _ClassVar[int]
    Y0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    x0: float
    y0: float
    x1: float
    y1: float
    def __init__(self, x0: _Optional[float] = ..., y0: _Optional[float] = ..., x1: _Optional[float] = ..., y1: _Optional[float] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("request_id", "original_size", "results", "model_name", "model_version", "timings", "image_id", "cached")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    original_size: Size
    results: _containers.RepeatedCompositeFieldContainer[PromptResult]
    model_name: str
    model_version: str
    timings: Timings
    image_id: str
    cached: bool
    def __init__(self, request_id: _Optional[str] = ..., original_size: _Optional[_Union[Size, _Mapping]] = ..., results: _Optional[_Iterable[_Union[PromptResult, _Mapping]]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., image_id: _Optional[str] = ..., cached: _Optional[bool] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class PromptResult(_message.Message):
    __slots__ = ("masks", "found_at")
    MASKS_FIELD_NUMBER: _ClassVar[int]
    FOUND_AT_FIELD_NUMBER: _ClassVar[int]
    masks: _containers.RepeatedCompositeFieldContainer[Mask]
    found_at: Point
    def __init__(self, masks: _Optional[_Iterable[_Union[Mask, _Mapping]]] = ..., found_at: _Optional[_Union[Point, _Mapping]] = ...) -> None: ...

class Mask(_message.Message):
    __slots__ = ("coco_rle", "score", "box", "area", "label")
    COCO_RLE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    coco_rle: CocoRle
    score: float
    box: Box
    area: int
    label: str
    def __init__(self, coco_rle: _Optional[_Union[CocoRle, _Mapping]] = ..., score: _Optional[float] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., area: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class CocoRle(_message.Message):
    __slots__ = ("size", "counts")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    size: Size
    counts: str
    def __init__(self, size: _Optional[_Union[Size, _Mapping]] = ..., counts: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("validate_ms", "triton_ms", "total_ms")
    VALIDATE_MS_FIELD_NUMBER: _ClassVar[int]
    TRITON_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    validate_ms: float
    triton_ms: float
    total_ms: float
    def __init__(self, validate_ms: _Optional[float] = ..., triton_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("model", "limits", "gateway_version", "triton_version", "classes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRITON_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    model: Model
    limits: Limits
    gateway_version: str
    triton_version: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., gateway_version: _Optional[str] = ..., triton_version: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "size", "image_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    size: str
    image_size: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., size: _Optional[str] = ..., image_size: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_image_bytes", "max_pixels", "max_prompts", "max_points", "max_in_flight", "image_formats", "cache_bytes", "max_queue_seconds", "max_tiles")
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMATS_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TILES_FIELD_NUMBER: _ClassVar[int]
    max_image_bytes: int
    max_pixels: int
    max_prompts: int
    max_points: int
    max_in_flight: int
    image_formats: _containers.RepeatedScalarFieldContainer[str]
    cache_bytes: int
    max_queue_seconds: float
    max_tiles: int
    def __init__(self, max_image_bytes: _Optional[int] = ..., max_pixels: _Optional[int] = ..., max_prompts: _Optional[int] = ..., max_points: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., image_formats: _Optional[_Iterable[str]] = ..., cache_bytes: _Optional[int] = ..., max_queue_seconds: _Optional[float] = ..., max_tiles: _Optional[int] = ...) -> None: ...

class ListClassesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListClassesResponse(_message.Message):
    __slots__ = ("classes", "tile_size")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    TILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[ClassInfo]
    tile_size: int
    def __init__(self, classes: _Optional[_Iterable[_Union[ClassInfo, _Mapping]]] = ..., tile_size: _Optional[int] = ...) -> None: ...

class ClassInfo(_message.Message):
    __slots__ = ("name", "prototypes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOTYPES_FIELD_NUMBER: _ClassVar[int]
    name: str
    prototypes: int
    def __init__(self, name: _Optional[str] = ..., prototypes: _Optional[int] = ...) -> None: ...

class AddClassRequest(_message.Message):
    __slots__ = ("name", "examples", "tile_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    examples: _containers.RepeatedCompositeFieldContainer[Example]
    tile_size: int
    def __init__(self, name: _Optional[str] = ..., examples: _Optional[_Iterable[_Union[Example, _Mapping]]] = ..., tile_size: _Optional[int] = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("image_bytes", "image_id", "entities")
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    image_bytes: bytes
    image_id: str
    entities: _containers.RepeatedCompositeFieldContainer[CocoRle]
    def __init__(self, image_bytes: _Optional[bytes] = ..., image_id: _Optional[str] = ..., entities: _Optional[_Iterable[_Union[CocoRle, _Mapping]]] = ...) -> None: ...

class RemoveClassRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
