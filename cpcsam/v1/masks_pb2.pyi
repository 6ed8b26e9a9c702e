from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MaskFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_FORMAT_COCO_RLE: _ClassVar[MaskFormat]
    MASK_FORMAT_PNG: _ClassVar[MaskFormat]
    MASK_FORMAT_POLYGONS: _ClassVar[MaskFormat]
    MASK_FORMAT_NONE: _ClassVar[MaskFormat]
MASK_FORMAT_COCO_RLE: MaskFormat
MASK_FORMAT_PNG: MaskFormat
MASK_FORMAT_POLYGONS: MaskFormat
MASK_FORMAT_NONE: MaskFormat

class Size(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

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

class Mask(_message.Message):
    __slots__ = ("coco_rle", "png", "polygons", "score", "box", "area", "stability", "label", "low_res_mask")
    COCO_RLE_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    POLYGONS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LOW_RES_MASK_FIELD_NUMBER: _ClassVar[int]
    coco_rle: CocoRle
    png: bytes
    polygons: Polygons
    score: float
    box: Box
    area: int
    stability: float
    label: str
    low_res_mask: LowResMask
    def __init__(self, coco_rle: _Optional[_Union[CocoRle, _Mapping]] = ..., png: _Optional[bytes] = ..., polygons: _Optional[_Union[Polygons, _Mapping]] = ..., score: _Optional[float] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., area: _Optional[int] = ..., stability: _Optional[float] = ..., label: _Optional[str] = ..., low_res_mask: _Optional[_Union[LowResMask, _Mapping]] = ...) -> None: ...

class CocoRle(_message.Message):
    __slots__ = ("size", "counts")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    size: Size
    counts: str
    def __init__(self, size: _Optional[_Union[Size, _Mapping]] = ..., counts: _Optional[str] = ...) -> None: ...

class BinaryMask(_message.Message):
    __slots__ = ("coco_rle", "png")
    COCO_RLE_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    coco_rle: CocoRle
    png: bytes
    def __init__(self, coco_rle: _Optional[_Union[CocoRle, _Mapping]] = ..., png: _Optional[bytes] = ...) -> None: ...

class Polygons(_message.Message):
    __slots__ = ("rings",)
    RINGS_FIELD_NUMBER: _ClassVar[int]
    rings: _containers.RepeatedCompositeFieldContainer[Ring]
    def __init__(self, rings: _Optional[_Iterable[_Union[Ring, _Mapping]]] = ...) -> None: ...

class Ring(_message.Message):
    __slots__ = ("coordinates",)
    COORDINATES_FIELD_NUMBER: _ClassVar[int]
    coordinates: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, coordinates: _Optional[_Iterable[float]] = ...) -> None: ...

class LowResMask(_message.Message):
    __slots__ = ("logits", "part")
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    logits: bytes
    part: Box
    def __init__(self, logits: _Optional[bytes] = ..., part: _Optional[_Union[Box, _Mapping]] = ...) -> None: ...

class Intensity(_message.Message):
    __slots__ = ("policy", "low", "high")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    policy: str
    low: float
    high: float
    def __init__(self, policy: _Optional[str] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...
