"""Detection function for CVAT: annotates tasks with a gateway's classes, or with everything.

    cvat-cli task auto-annotate TASK --function-module cpcsam.integrations.cvat \
        -p gateway=str:127.0.0.1:50051 -p classes=str:nucleus

`cpcsam.integrations.cvat_interactor` is the function for clicks and boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cpcsam.client._channel import DEFAULT_ADDRESS
from cpcsam.client.images import encode_image
from cpcsam.client.masks import Mask, MaskFormat
from cpcsam.client.requests import ClassSearch, Everything, SegmentRequest
from cpcsam.errors import ConfigError
from cpcsam.formats import UNNAMED
from cpcsam.integrations.cvat_parameters import client_of, cvat_packages
from cpcsam.outlines import polygons_of

if TYPE_CHECKING:
    from PIL import Image

    from cpcsam.client.sync_client import SegmentationClient

__all__ = ["Detection", "create"]


def create(
    gateway: str = DEFAULT_ADDRESS,
    *,
    classes: str = "",
    everything: bool = False,
    label: str = UNNAMED,
    token_file: str = "",
    tls: bool = False,
    ca: str = "",
    timeout_s: float = 60.0,
    tile_size: int | None = None,
    tile_overlap: float | None = None,
    threshold: float | None = None,
    min_similarity: float | None = None,
    min_iou: float | None = None,
    min_stability: float | None = None,
    points_per_side: int | None = None,
    min_area: int | None = None,
    epsilon_factor: float = 0.0,
) -> Detection:
    """Create the function, as cvat-cli does with the parameters of `-p`.

    Args:
        gateway: HOST:PORT of the gateway.
        classes: names, separated by commas, of classes that the gateway knows; empty for all.
        everything: whether to annotate everything in an image instead, with one label.
        label: of everything.
        token_file: file that holds the bearer token; empty for the variable CPCSAM_TOKEN.
        tls: whether the gateway speaks TLS.
        ca: PEM file of trusted certificates; empty trusts those of the system. Implies tls.
        timeout_s: time limit of a call in seconds, retries included.
        tile_size: of everything, side of the tiles in pixels, 0 for whole images; classes have the
            tile size that they were added with. None, as for the parameters below, takes the
            server's value.
        tile_overlap: of everything, as a part of the tiles' side.
        threshold: least probability of a class at a place.
        min_similarity: least mean probability of a class under a mask.
        min_iou: least predicted IoU of a mask.
        min_stability: of everything, least stability of a mask.
        points_per_side: of everything, clicks along each side of the grid.
        min_area: of everything, least pixels of a mask.
        epsilon_factor: tolerance of polygons, where CVAT asks for them instead of masks, as a part
            of their length; 0 for polygons that hold the same pixels.

    Raises:
        ConfigError: token or certificates cannot be read, or the gateway knows no class.
        ModuleNotFoundError: cvat-sdk is not installed.
        CpcSamError: as `SegmentationClient.classes`.
    """
    client = client_of(gateway, token_file, tls, ca, timeout_s)
    if everything:
        search = Everything(
            points_per_side=points_per_side,
            min_iou=min_iou,
            min_stability=min_stability,
            min_area=min_area,
        )
        parameters: dict[str, Any] = {
            "everything": search,
            "tile_size": tile_size,
            "tile_overlap": tile_overlap,
        }
        return Detection(client, [label], parameters, epsilon_factor)
    names = [name.strip() for name in classes.split(",") if name.strip()]
    names = names or list(client.describe().classes)
    if not names:
        raise ConfigError.of(
            "classes",
            got="a gateway without classes",
            expected="the names of classes",
            fix="add one by `cpcsam classes add`, or set everything=bool:true",
        )
    class_search = ClassSearch(threshold, min_similarity, min_iou)
    return Detection(
        client, names, {"classes": names, "class_search": class_search}, epsilon_factor
    )


class Detection:
    """CVAT's interface of detection functions, `cvat_sdk.auto_annotation.DetectionFunction`.

    Args:
        client: of the gateway.
        labels: names of the labels; masks without a class have the first.
        parameters: of each `SegmentRequest`.
        epsilon_factor: as of `create`.

    Attributes:
        spec: labels of type mask, numbered in their order from 0.
    """

    def __init__(
        self,
        client: SegmentationClient,
        labels: list[str],
        parameters: dict[str, Any],
        epsilon_factor: float,
    ) -> None:
        with cvat_packages():
            import cvat_sdk.auto_annotation as cvataa
        self._client = client
        self._numbers = {name: number for number, name in enumerate(labels)}
        self._parameters = parameters
        self._epsilon_factor = epsilon_factor
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(name, number, type="mask")
                for name, number in self._numbers.items()
            ]
        )

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """Find the entities in an image.

        Args:
            context: of CVAT: `conf_threshold`, the least score or None, and `conv_mask_to_poly`.
            image: a frame of the task.

        Returns:
            `LabeledShapeRequest`s of type mask, or polygon if CVAT asks for it, best first.

        Raises:
            CpcSamError: as `SegmentationClient.segment`.
        """
        mask_format = MaskFormat.POLYGONS if context.conv_mask_to_poly else MaskFormat.COCO_RLE
        request = SegmentRequest(encode_image(image), mask_format=mask_format, **self._parameters)
        least = context.conf_threshold or 0.0
        masks = (mask for _, _, mask in self._client.send(request).each())
        return [
            shape for mask in masks if mask.area and mask.score >= least for shape in self._of(mask)
        ]

    def _of(self, mask: Mask) -> Iterator[Any]:
        import cvat_sdk.auto_annotation as cvataa
        from cvat_sdk.masks import encode_mask

        number = self._numbers.get(mask.label, 0)
        score = min(max(mask.score, 0.0), 1.0)
        if mask.rings is None:
            yield cvataa.mask(number, encode_mask(mask.array, mask.box), score=score)
            return
        for polygon in polygons_of(mask.rings, self._epsilon_factor):
            yield cvataa.polygon(number, polygon.ravel().tolist(), score=score)
