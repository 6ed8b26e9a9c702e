from cpcsam.v1 import masks_pb2 as _masks_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

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
    __slots__ = ("name", "prototypes", "texts", "negatives")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOTYPES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    name: str
    prototypes: int
    texts: _containers.RepeatedScalarFieldContainer[str]
    negatives: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., prototypes: _Optional[int] = ..., texts: _Optional[_Iterable[str]] = ..., negatives: _Optional[_Iterable[str]] = ...) -> None: ...

class AddClassRequest(_message.Message):
    __slots__ = ("name", "examples", "tile_size", "texts", "negatives")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    name: str
    examples: _containers.RepeatedCompositeFieldContainer[Example]
    tile_size: int
    texts: _containers.RepeatedScalarFieldContainer[str]
    negatives: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., examples: _Optional[_Iterable[_Union[Example, _Mapping]]] = ..., tile_size: _Optional[int] = ..., texts: _Optional[_Iterable[str]] = ..., negatives: _Optional[_Iterable[str]] = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("image_bytes", "image_id", "entities", "page", "channels", "intensity")
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    INTENSITY_FIELD_NUMBER: _ClassVar[int]
    image_bytes: bytes
    image_id: str
    entities: _containers.RepeatedCompositeFieldContainer[_masks_pb2.CocoRle]
    page: int
    channels: _containers.RepeatedScalarFieldContainer[int]
    intensity: _masks_pb2.Intensity
    def __init__(self, image_bytes: _Optional[bytes] = ..., image_id: _Optional[str] = ..., entities: _Optional[_Iterable[_Union[_masks_pb2.CocoRle, _Mapping]]] = ..., page: _Optional[int] = ..., channels: _Optional[_Iterable[int]] = ..., intensity: _Optional[_Union[_masks_pb2.Intensity, _Mapping]] = ...) -> None: ...

class RemoveClassRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
