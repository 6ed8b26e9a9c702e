from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

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

class Everything(_message.Message):
    __slots__ = ("points_per_side", "min_iou", "min_stability", "stability_offset", "max_box_iou", "crop_layers", "crop_overlap", "crop_points_divisor", "max_crop_box_iou", "min_area")
    POINTS_PER_SIDE_FIELD_NUMBER: _ClassVar[int]
    MIN_IOU_FIELD_NUMBER: _ClassVar[int]
    MIN_STABILITY_FIELD_NUMBER: _ClassVar[int]
    STABILITY_OFFSET_FIELD_NUMBER: _ClassVar[int]
    MAX_BOX_IOU_FIELD_NUMBER: _ClassVar[int]
    CROP_LAYERS_FIELD_NUMBER: _ClassVar[int]
    CROP_OVERLAP_FIELD_NUMBER: _ClassVar[int]
    CROP_POINTS_DIVISOR_FIELD_NUMBER: _ClassVar[int]
    MAX_CROP_BOX_IOU_FIELD_NUMBER: _ClassVar[int]
    MIN_AREA_FIELD_NUMBER: _ClassVar[int]
    points_per_side: int
    min_iou: float
    min_stability: float
    stability_offset: float
    max_box_iou: float
    crop_layers: int
    crop_overlap: float
    crop_points_divisor: int
    max_crop_box_iou: float
    min_area: int
    def __init__(self, points_per_side: _Optional[int] = ..., min_iou: _Optional[float] = ..., min_stability: _Optional[float] = ..., stability_offset: _Optional[float] = ..., max_box_iou: _Optional[float] = ..., crop_layers: _Optional[int] = ..., crop_overlap: _Optional[float] = ..., crop_points_divisor: _Optional[int] = ..., max_crop_box_iou: _Optional[float] = ..., min_area: _Optional[int] = ...) -> None: ...
