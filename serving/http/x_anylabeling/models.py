"""Models that X-AnyLabeling offers for a gateway: by prompts, everything, and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cpcsam.v1 import segmentation_pb2 as pb

__all__ = ["CLASSES", "EVERYTHING", "PROMPTS", "RECTANGLES", "models_of"]

PROMPTS: Final = "cpcsam-prompts"
EVERYTHING: Final = "cpcsam-everything"
CLASSES: Final = "cpcsam-classes"
POLYGONS: Final = "polygons"
RECTANGLES: Final = "rectangles"

DEFAULT_FINENESS: Final = 10
"""Of the client's slider from 1 to 100, an `epsilon_factor` of 0.001."""

FINENESS: Final = ("mask_fineness_slider", "mask_fineness_value_label")
DRAWING: Final = (
    "button_add_point",
    "button_remove_point",
    "button_add_rect",
    "button_clear",
    "button_finish_object",
)


def models_of(description: pb.DescribeResponse) -> dict[str, dict[str, Any]]:
    """Describe the models and the widgets of their thresholds, as the client reads them.

    Args:
        description: of the gateway; without classes, there is no model for them.

    Returns:
        Metadata by model id, for JSON.
    """
    served = f"{description.model.size} {description.model.version}".strip()
    everything, search = description.everything, description.class_search
    thresholds = {"edit_conf": everything.min_iou, "edit_iou": everything.max_box_iou}
    models = {
        PROMPTS: _model(f"CPC-SAM points and boxes ({served})", DRAWING, {}, automatic=False),
        EVERYTHING: _model(
            f"CPC-SAM everything ({served})",
            ("button_run", "input_conf", "input_iou", "toggle_preserve_existing_annotations"),
            thresholds,
        ),
    }
    if description.classes:
        models[CLASSES] = {
            **_model(
                f"CPC-SAM classes ({served})",
                (
                    "button_run",
                    "button_classes_filter",
                    "input_conf",
                    "toggle_preserve_existing_annotations",
                ),
                {"edit_conf": search.threshold},
            ),
            "classes": list(description.classes),
        }
    return models


def _model(
    display_name: str,
    widgets: Sequence[str],
    thresholds: dict[str, float],
    *,
    automatic: bool = True,
) -> dict[str, Any]:
    """Describe a model with a task for each kind of shape; only polygons have a fineness."""
    values: dict[str, object] = dict.fromkeys(widgets)
    values |= {name: round(value, 4) for name, value in thresholds.items()}
    if "toggle_preserve_existing_annotations" in values:
        values["toggle_preserve_existing_annotations"] = False
    # None keeps the client's batch processing from a model that needs marks.
    batch_processing_mode = "default" if automatic else None
    with_fineness = {**values, FINENESS[0]: DEFAULT_FINENESS, FINENESS[1]: None}
    return {
        "display_name": display_name,
        "batch_processing_mode": batch_processing_mode,
        "widgets": [{"name": name, "value": value} for name, value in with_fineness.items()],
        "params": {},
        "capabilities": {},
        "available_tasks": [
            _task(POLYGONS, "Polygons", with_fineness, batch_processing_mode),
            _task(RECTANGLES, "Rectangles", values, batch_processing_mode),
        ],
    }


def _task(task_id: str, name: str, widgets: dict[str, object], mode: str | None) -> dict[str, Any]:
    return {
        "id": task_id,
        "name": name,
        "batch_processing_mode": mode,
        "active_widgets": {widget: {} for widget in widgets},
    }
