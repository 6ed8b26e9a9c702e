"""Dock widget: the gateway's address, the layers to read, and a button for each kind of request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from napari.layers import Image, Layer, Points, Shapes
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QWidget,
)

from cpcsam.client import (
    Everything,
    Intensity,
    Mask,
    ReadOptions,
    SegmentationClient,
    SegmentRequest,
)
from cpcsam.errors import ContractError, CpcSamError
from napari_cpcsam.calls import Address, Calls
from napari_cpcsam.painting import known_labels, labels_for, paint_entities, paint_prompted
from napari_cpcsam.planes import Plane, seen_plane
from napari_cpcsam.prompts import prompts_of

if TYPE_CHECKING:
    import napari

__all__ = ["SegmentWidget"]

MODEL_WINDOW: Final = -1
"""Tile size that leaves the choice to the gateway."""
LARGEST_TILE: Final = 65536
MOST_POINTS_PER_SIDE: Final = 256
UNSET: Final = -0.01
"""Value of a threshold that is left to the gateway."""


class SegmentWidget(QWidget):  # type: ignore[misc]
    """Segments the plane that the viewer shows into a labels layer.

    Args:
        napari_viewer: whose layers are read; the labels are added to it.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.calls = Calls()
        self.address = QLineEdit("127.0.0.1:50051")
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.tls = QCheckBox()
        self.tile_size = QSpinBox()
        self.tile_size.setRange(MODEL_WINDOW, LARGEST_TILE)
        self.tile_size.setSpecialValueText("the model's")
        self.tile_size.setValue(MODEL_WINDOW)
        self.tile_size.setToolTip("Side of the tiles in pixels; 0 for the whole image")
        self.points_per_side = QSpinBox()
        self.points_per_side.setRange(0, MOST_POINTS_PER_SIDE)
        self.points_per_side.setSpecialValueText("the server's")
        self.points_per_side.setToolTip("Of everything: clicks along each side of the grid")
        self.min_iou, self.min_stability = _fraction(), _fraction()
        self.by_contrast = QCheckBox()
        self.by_contrast.setToolTip("For images of more than 8 bits: grey levels as they are seen")
        self.image, self.points, self.shapes = (QComboBox() for _ in range(3))
        self.classes = QLineEdit()
        self.classes.setPlaceholderText("all; names, separated by commas")
        self.segment_button = QPushButton("Segment prompts")
        self.next_button = QPushButton("Next object")
        self.next_button.setToolTip("Keep the mask, remove its points and rectangles")
        self.everything_button = QPushButton("Segment everything")
        self.classes_button = QPushButton("Segment classes")
        self.cancel_button = QPushButton("Cancel")
        self.status = QLabel()
        self.status.setWordWrap(True)
        self._lay_out()
        for button, action in (
            (self.segment_button, self.segment_prompts),
            (self.next_button, self.next_object),
            (self.everything_button, self.segment_everything),
            (self.classes_button, self.segment_classes),
            (self.cancel_button, self.cancel),
        ):
            button.clicked.connect(lambda _=False, action=action: self._try(action))
        for event in ("inserted", "removed", "renamed"):
            getattr(napari_viewer.layers.events, event).connect(self._list_layers)
        self._list_layers()
        self._show_running()

    def segment_prompts(self) -> None:
        """Segment what the points and rectangles of the plane ask for, from the selected label on.

        Raises:
            CpcSamError: there is no image or no prompt.
        """
        plane = self._plane()
        prompts = prompts_of(plane, self._chosen(self.points), self._chosen(self.shapes))
        tile_size = self._tile_size()
        labels = known_labels(self._viewer, plane)
        first = 1 if labels is None else labels.selected_label
        self._start(
            lambda client: self._request(plane, prompts=prompts, tile_size=tile_size),
            lambda masks: paint_prompted(labels_for(self._viewer, plane), plane, masks, first),
        )

    def segment_everything(self) -> None:
        """Replace the labels of the plane by everything that is found in it.

        Raises:
            CpcSamError: there is no image.
        """
        plane, tile_size = self._plane(), self._tile_size()
        search = Everything(
            points_per_side=self.points_per_side.value() or None,
            min_iou=_value(self.min_iou),
            min_stability=_value(self.min_stability),
        )
        self._start(
            lambda client: self._request(plane, everything=search, tile_size=tile_size),
            lambda masks: paint_entities(labels_for(self._viewer, plane), plane, masks),
        )

    def segment_classes(self) -> None:
        """Replace the labels of the plane by the entities of classes.

        Raises:
            CpcSamError: there is no image.
        """
        plane = self._plane()
        names = [name.strip() for name in self.classes.text().split(",") if name.strip()]

        def request(client: SegmentationClient) -> SegmentRequest:
            known = names or list(client.describe().classes)
            if not known:
                raise ContractError.of(
                    "classes", got="none", expected="one", fix="teach the gateway a class"
                )
            return self._request(plane, classes=known)

        self._start(
            request, lambda masks: paint_entities(labels_for(self._viewer, plane), plane, masks)
        )

    def next_object(self) -> None:
        """Select the next free label, and remove the points and rectangles of the last object.

        Raises:
            CpcSamError: there is no image.
        """
        labels = labels_for(self._viewer, self._plane())
        labels.selected_label = int(labels.data.max()) + 1
        for box in (self.points, self.shapes):
            layer = self._chosen(box)
            if layer is not None:
                layer.selected_data = set(range(len(layer.data)))
                layer.remove_selected()

    def cancel(self) -> None:
        """Give up the running request."""
        self.calls.cancel()
        self.status.setText("cancelled")
        self._show_running()

    def _start(
        self,
        build: Callable[[SegmentationClient], SegmentRequest],
        paint: Callable[[list[Mask]], None],
    ) -> None:
        def done(masks: list[Mask], warnings: tuple[str, ...]) -> None:
            paint(masks)
            found = sum(mask.area > 0 for mask in masks)
            self.status.setText("\n".join((f"{found} masks", *warnings)))
            self._show_running()

        def failed(error: Exception) -> None:
            self.status.setText(str(error))
            self._show_running()

        address = Address(self.address.text().strip(), self.token.text(), self.tls.isChecked())
        self.calls.start(address, build, done, failed)
        self.status.setText("waiting for the gateway")
        self._show_running()

    def _request(self, plane: Plane, **parameters: Any) -> SegmentRequest:
        pixels = plane.pixels()
        options = None
        if self.by_contrast.isChecked() and pixels.dtype.itemsize > 1:
            low, high = map(float, plane.layer.contrast_limits)
            options = ReadOptions(intensity=Intensity("range", low, high))
        return SegmentRequest(pixels, read_options=options, **parameters)

    def _tile_size(self) -> int | None:
        return None if self.tile_size.value() == MODEL_WINDOW else self.tile_size.value()

    def _plane(self) -> Plane:
        layer = self._chosen(self.image)
        if layer is None:
            active = self._viewer.layers.selection.active
            images = [each for each in self._viewer.layers if isinstance(each, Image)]
            layer = active if isinstance(active, Image) else images[-1] if images else None
        if layer is None:
            raise ContractError.of("image", got="no layer", expected="an image", fix="open one")
        return seen_plane(layer, self._viewer.dims)

    def _chosen(self, box: QComboBox) -> Any:
        name = box.currentData()
        return None if name is None else self._viewer.layers[name]

    def _list_layers(self, event: object = None) -> None:
        """Offer the layers of each kind; a choice that is still there stays."""
        for box, kind, none in (
            (self.image, Image, "the active one"),
            (self.points, Points, "none"),
            (self.shapes, Shapes, "none"),
        ):
            names = [layer.name for layer in self._viewer.layers if _is(layer, kind)]
            chosen = box.currentData()
            box.clear()
            box.addItem(none, None)
            for name in names:
                box.addItem(name, name)
            # A first layer of points or shapes is chosen by itself.
            default = names[0] if names and kind is not Image else None
            box.setCurrentIndex(box.findData(chosen if chosen in names else default))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except CpcSamError as error:
            self.status.setText(str(error))

    def _show_running(self) -> None:
        running = self.calls.running
        for button in (
            self.segment_button,
            self.next_button,
            self.everything_button,
            self.classes_button,
        ):
            button.setEnabled(not running)
        self.cancel_button.setEnabled(running)

    def _lay_out(self) -> None:
        rows: tuple[tuple[str, QWidget], ...] = (
            ("gateway", self.address),
            ("token", self.token),
            ("TLS", self.tls),
            ("image", self.image),
            ("points", self.points),
            ("rectangles", self.shapes),
            ("tile size", self.tile_size),
            ("contrast limits", self.by_contrast),
            ("clicks per side", self.points_per_side),
            ("least IoU", self.min_iou),
            ("least stability", self.min_stability),
            ("classes", self.classes),
        )
        form = QFormLayout(self)
        for name, widget in rows:
            form.addRow(name, widget)
        form.addRow(self.segment_button, self.next_button)
        form.addRow(self.everything_button)
        form.addRow(self.classes_button)
        form.addRow(self.cancel_button)
        form.addRow(self.status)


def _fraction() -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setRange(UNSET, 1.0)
    box.setSingleStep(-UNSET)
    box.setSpecialValueText("the server's")
    box.setValue(UNSET)
    return box


def _value(box: QDoubleSpinBox) -> float | None:
    return None if box.value() < 0 else float(box.value())


def _is(layer: Layer, kind: type[Layer]) -> bool:
    return isinstance(layer, kind)
