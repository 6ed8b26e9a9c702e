"""The plane of an image layer that is seen, and where points of other layers lie in it.

napari counts from the centre of the first pixel, the gateway from its corner: half a pixel more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cpcsam.errors import ContractError

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Layer

__all__ = ["HALF", "Plane", "placed_like", "seen_plane"]

HALF: Final = 0.5
SENT_DTYPES: Final = ("uint8", "uint16", "int16", "int32", "float16", "float32", "bool")


@dataclass(frozen=True)
class Plane:
    """A plane of an image layer.

    Attributes:
        layer: the layer.
        index: of the plane, along the layer's axes before the last two.
        point: the viewer's position in world coordinates, one for each of its axes.
    """

    layer: Image
    index: tuple[int, ...]
    point: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer without colours."""
        return tuple(int(side) for side in self._data().shape[: len(self.index) + 2])

    def pixels(self) -> NDArray[Any]:
        """Return the plane, (H, W) or (H, W, 3 or 4), in a dtype that the client encodes."""
        pixels = np.asarray(self._data()[self.index])
        if pixels.dtype.name in SENT_DTYPES:
            return pixels
        return pixels.astype(np.float32)

    def coords_of(self, layer: Layer, positions: NDArray[Any]) -> tuple[NDArray[np.float64], Any]:
        """Map positions of another layer to the plane, by the layers' transforms.

        Args:
            layer: of points or shapes.
            positions: (N, D) data coordinates of it.

        Returns:
            (N, 2) float64 (X, Y) in pixels, the first pixel's corner being (0, 0); and (N,) bool,
            whether a position lies in this plane.
        """
        coords, here = np.zeros((len(positions), 2)), np.zeros(len(positions), bool)
        for number, position in enumerate(positions):
            world = np.atleast_1d(layer.data_to_world(position))
            # A layer with fewer axes is seen in every plane of the others.
            missing = max(0, len(self.point) - len(world))
            full = (*self.point[:missing], *world)
            *before, y, x = self.layer.world_to_data(full)
            here[number] = all(
                round(float(value)) == index
                for value, index in zip(before, self.index, strict=True)
            )
            coords[number] = x + HALF, y + HALF
        return coords, here

    def _data(self) -> Any:
        return self.layer.data[0] if self.layer.multiscale else self.layer.data


def seen_plane(layer: Image, dims: Dims) -> Plane:
    """Return the plane of a layer that the viewer shows.

    Raises:
        ContractError: the viewer shows a volume, or other axes than the layer's last two.
    """
    last = (dims.ndim - 2, dims.ndim - 1)
    if dims.ndisplay != 2 or tuple(dims.displayed) != last:
        raise ContractError.of(
            "view",
            got=f"axes {tuple(dims.displayed)}",
            expected=f"a plane of the axes {last}",
            fix="show the image in 2D, in its own order of axes",
        )
    before = layer.world_to_data(dims.point)[:-2]
    shape = layer.data[0].shape if layer.multiscale else layer.data.shape
    index = tuple(
        _clipped(value, side) for value, side in zip(before, shape[: len(before)], strict=True)
    )
    return Plane(layer, index, tuple(map(float, dims.point)))


def _clipped(value: float, side: int) -> int:
    return min(max(round(float(value)), 0), side - 1)


def placed_like(layer: Image) -> dict[str, Any]:
    """Return the arguments that put a new layer of the same axes where an image layer lies."""
    names: Sequence[str] = ("scale", "translate", "rotate", "shear", "affine", "units")
    return {name: getattr(layer, name) for name in names}
