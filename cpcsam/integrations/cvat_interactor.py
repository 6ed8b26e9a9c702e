"""Interactor for CVAT: masks for the points and boxes that annotators set on a frame.

cvat-cli function create-native CPC-SAM --function-module cpcsam.integrations.cvat_interactor
cvat-cli function run-agent FUNCTION --function-module cpcsam.integrations.cvat_interactor
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cpcsam.client._channel import DEFAULT_ADDRESS
from cpcsam.client.images import encode_image
from cpcsam.client.prompts import XY, Prompt
from cpcsam.contract import PointLabel
from cpcsam.integrations.cvat_parameters import client_of, cvat_packages

if TYPE_CHECKING:
    from PIL import Image

    from cpcsam.client.sync_client import SegmentationClient

__all__ = ["EncodedFrame", "Interaction", "create"]

EDGE: Final = 2**-6
"""In pixels, how far inside a frame its last points lie; float32 holds it for 100,000 pixels."""


def create(
    gateway: str = DEFAULT_ADDRESS,
    *,
    token_file: str = "",
    tls: bool = False,
    ca: str = "",
    timeout_s: float = 60.0,
    tile_size: int | None = None,
) -> Interaction:
    """Create the function, as cvat-cli does with the parameters of `-p`.

    Args:
        gateway: HOST:PORT of the gateway.
        token_file: file that holds the bearer token; empty for the variable CPCSAM_TOKEN.
        tls: whether the gateway speaks TLS.
        ca: PEM file of trusted certificates; empty trusts those of the system. Implies tls.
        timeout_s: time limit of a call in seconds, retries included.
        tile_size: side of the tiles in pixels, 0 for whole frames; None takes the server's value.

    Raises:
        ConfigError: token or certificates cannot be read.
        ModuleNotFoundError: cvat-sdk is not installed.
    """
    return Interaction(client_of(gateway, token_file, tls, ca, timeout_s), tile_size)


@dataclass(frozen=True)
class EncodedFrame:
    """A frame as an image file, which the agent keeps between clicks.

    Attributes:
        content: of the file; the client sends it once.
        size: (W, H) in pixels.
    """

    content: bytes = field(repr=False)
    size: tuple[int, int]


class Interaction:
    """CVAT's interface of interactors, `cvat_sdk.auto_annotation.InteractionFunction`.

    Args:
        client: of the gateway.
        tile_size: as of `create`.

    Attributes:
        spec: any number of points, positive and negative, and an optional box.
    """

    def __init__(self, client: SegmentationClient, tile_size: int | None) -> None:
        with cvat_packages():
            import cvat_sdk.auto_annotation as cvataa
        self._client = client
        self._tile_size = tile_size
        self.spec = cvataa.InteractionFunctionSpec(
            min_pos_points=0, min_neg_points=0, min_bounding_boxes=0
        )

    def preprocess_image(self, context: Any, image: Image.Image) -> EncodedFrame:
        """Encode a frame, once for all prompts on it."""
        return EncodedFrame(encode_image(image), image.size)

    def detect(self, context: Any, pp_image: EncodedFrame, prompts: Any) -> list[Any]:
        """Segment the entity that prompts point at.

        Args:
            context: of CVAT, unused.
            pp_image: of `preprocess_image`.
            prompts: `pos_points` and `neg_points`, (X, Y) in pixels, and `bounding_box`, two
                corners or None.

        Returns:
            An `InteractionResultShape` of type mask with its score; nothing for an empty mask, and
            where there is neither a positive point nor a box.

        Raises:
            CpcSamError: as `SegmentationClient.segment`.
        """
        import cvat_sdk.auto_annotation as cvataa
        from cvat_sdk import models
        from cvat_sdk.masks import encode_mask

        if not prompts.pos_points and prompts.bounding_box is None:
            return []
        prompt = _prompt(prompts, pp_image.size)
        result = self._client.segment(pp_image.content, [prompt], tile_size=self._tile_size)
        mask = result.masks[0][0]
        if not mask.area:
            return []
        confidence = models.AttributeValRequest(
            spec_id=cvataa.InteractionResultAttributes.CONFIDENCE.value,
            value=f"{min(max(mask.score, 0.0), 1.0):.4f}",
        )
        points = encode_mask(mask.array, mask.box)
        return [cvataa.InteractionResultShape(type="mask", points=points, attributes=[confidence])]


def _prompt(prompts: Any, size: tuple[int, int]) -> Prompt:
    """Convert CVAT's prompts, moving what was set on the frame's very edge into the frame."""
    inside = (size[0] - EDGE, size[1] - EDGE)
    points = [_within(point, inside) for point in (*prompts.pos_points, *prompts.neg_points)]
    labels = (
        *(int(PointLabel.FOREGROUND) for _ in prompts.pos_points),
        *(int(PointLabel.BACKGROUND) for _ in prompts.neg_points),
    )
    if prompts.bounding_box is None:
        return Prompt(tuple(points), labels)
    top_left, bottom_right = (_within(corner, size) for corner in prompts.bounding_box)
    return Prompt(tuple(points), labels, (*top_left, *bottom_right))


def _within(point: XY, size: XY) -> XY:
    return min(max(point[0], 0.0), size[0]), min(max(point[1], 0.0), size[1])
