"""Uses the napari plugin without a screen: python FILE ADDRESS IMAGE ARRAYS.

Writes the labels that it paints to ARRAYS, an .npz file, and prints what it shows, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from napari.components import ViewerModel
from napari.qt import get_qapp
from napari_cpcsam.widget import SegmentWidget
from npe2 import PluginManifest
from PIL import Image
from qtpy.QtWidgets import QApplication

SCALE, OFFSET = np.array([0.5, 0.25]), np.array([10.0, -20.0])
POSITIVE, NEGATIVE = (40.0, 60.0), (5.0, 5.0)
RECTANGLE = [[20.0, 20.0], [20.0, 100.0], [90.0, 100.0], [90.0, 20.0]]
PATIENCE_S = 300.0


class Session:
    """A viewer with the widget, on an image whose pixels are neither square nor at the origin.

    It is napari's viewer without its window, whose canvas needs OpenGL.
    """

    def __init__(self, address: str, pixels: np.ndarray, plane: int | None = None) -> None:
        self.viewer = ViewerModel()
        before = [1.0] if plane is not None else []
        self.viewer.add_image(
            pixels,
            name="nuclei",
            rgb=pixels.shape[-1] == 3,
            scale=[*before, *SCALE],
            translate=[*(0 * np.array(before)), *OFFSET],
        )
        if plane is not None:
            self.viewer.dims.set_current_step(0, plane)
        self.widget = SegmentWidget(self.viewer)
        self.widget.address.setText(address)

    def add_points(self, points: list[tuple[float, ...]], symbols: list[str]) -> None:
        """Add points at pixels of the image, in a layer that has world coordinates."""
        world = [self.viewer.layers["nuclei"].data_to_world(point) for point in points]
        self.viewer.add_points(np.array(world), symbol=symbols, name="clicks")

    def press(self, name: str) -> str:
        """Press a button, wait for the answer and return what the widget tells."""
        getattr(self.widget, name).click()
        if self.widget.calls.running:
            self.widget.next_button.click()  # in vain: the object has no mask yet
        deadline = time.monotonic() + PATIENCE_S
        while self.widget.calls.running and time.monotonic() < deadline:
            QApplication.processEvents()
            time.sleep(0.01)
        text: str = self.widget.status.text()
        return text

    def labels(self) -> np.ndarray:
        """Return a copy of the labels."""
        layer = self.viewer.layers["nuclei [CPC-SAM]"]
        np.testing.assert_allclose(layer.scale[-2:], SCALE)
        np.testing.assert_allclose(layer.translate[-2:], OFFSET)
        copy: np.ndarray = np.array(layer.data)
        return copy


def prompted(address: str, pixels: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, object]:
    """Segment by points, refine, go on to the next object, and cancel."""
    session = Session(address, pixels)
    told: dict[str, object] = {"nothing": session.press("segment_button")}
    session.add_points([POSITIVE, NEGATIVE], ["disc", "cross"])
    told["points"] = session.press("segment_button")
    arrays["points"] = session.labels()
    session.press("next_button")
    told["left"] = len(session.viewer.layers["clicks"].data)
    corners = [session.viewer.layers["nuclei"].data_to_world(corner) for corner in RECTANGLE]
    session.viewer.add_shapes([np.array(corners)], shape_type="rectangle")
    told["rectangle"] = session.press("segment_button")
    arrays["rectangle"] = session.labels()
    told["rows"] = session.viewer.layers["nuclei [CPC-SAM]"].features["index"].tolist()
    session.widget.classes.setText("nucleus")
    session.widget.classes_button.click()
    session.widget.cancel_button.click()
    told["cancelled"] = [session.widget.status.text(), session.widget.calls.running]
    time.sleep(2)
    QApplication.processEvents()
    arrays["cancelled"] = session.labels()
    told["classes"] = session.press("classes_button")
    arrays["classes"] = session.labels()
    features = session.viewer.layers["nuclei [CPC-SAM]"].features
    told["named"] = features["class"].tolist()
    told["selected"] = session.viewer.layers["nuclei [CPC-SAM]"].selected_label
    return told


def stacked(address: str, pixels: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, object]:
    """Segment a plane of a 16-bit stack, with points in it and in another plane."""
    grey = (pixels.astype(np.uint16).sum(axis=2) * 37).astype(np.uint16)
    session = Session(address, np.stack([grey[::-1], grey, grey[:, ::-1]]), plane=1)
    session.add_points([(1, *POSITIVE), (2, 90.0, 90.0)], ["disc", "disc"])
    told: dict[str, object] = {"stack": session.press("segment_button")}
    arrays["stack"] = session.labels()
    session.widget.by_contrast.setChecked(True)
    session.viewer.layers["nuclei"].contrast_limits = (0, 20000)
    told["contrast"] = session.press("segment_button")
    arrays["contrast"] = session.labels()
    session.widget.tile_size.setValue(0)
    session.widget.points_per_side.setValue(8)
    session.widget.min_iou.setValue(0.5)
    session.widget.min_stability.setValue(0.5)
    told["everything"] = session.press("everything_button")
    arrays["everything"] = session.labels()
    session.viewer.dims.ndisplay = 3
    told["volume"] = session.press("segment_button")
    return told


def renewed(address: str, pixels: np.ndarray) -> dict[str, object]:
    """Segment twice beside labels of an earlier image of the same name."""
    session = Session(address, pixels)
    session.viewer.add_labels(np.zeros((4, 4), np.int32), name="nuclei [CPC-SAM]")
    session.add_points([POSITIVE], ["disc"])
    for _ in range(2):
        session.press("segment_button")
    return {"layers": [layer.name for layer in session.viewer.layers]}


def main() -> None:
    """Run all uses."""
    address, path, out = sys.argv[1:]
    pixels = np.array(Image.open(path))
    arrays: dict[str, np.ndarray] = {}
    app = get_qapp()
    manifest = PluginManifest.from_file(
        Path(sys.modules["napari_cpcsam"].__path__[0]) / "napari.yaml"
    )
    manifest.validate_imports()
    told = prompted(address, pixels, arrays) | stacked(address, pixels, arrays)
    told |= renewed(address, pixels)
    np.savez_compressed(out, **arrays)
    print(json.dumps(told))
    app.quit()


if __name__ == "__main__":
    main()
