"""Runs the functions for CVAT by CVAT's own drivers, in its environment: python FILE ADDRESS IMAGE.

Prints what would reach a CVAT server, as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace
from typing import Any

import PIL.Image
from cvat_cli._internal.agent_driver import set_worker_current_function
from cvat_cli._internal.agent_driver_interaction import AgentInteractionFunctionDriver
from cvat_cli._internal.common import FunctionLoader
from cvat_cli._internal.parsers import parse_function_parameter
from cvat_sdk import models
from cvat_sdk.auto_annotation import annotate_task, driver

DETECTION = "cpcsam.integrations.cvat"
INTERACTION = "cpcsam.integrations.cvat_interactor"


def load(module: str, *parameters: str) -> Any:
    """Load a function as cvat-cli does, from the words of its `-p` options."""
    return FunctionLoader(module, None, dict(map(parse_function_parameter, parameters))).load()


def annotate(path: str, function: Any, **options: Any) -> list[dict[str, Any]]:
    """Annotate a task of one image, and return the shapes that are uploaded."""
    image = PIL.Image.open(path)
    image.load()
    sample = SimpleNamespace(
        frame_index=7, frame_name="frame.png", media=SimpleNamespace(load_image=lambda: image)
    )
    labels = [
        models.Label(name=name, id=number, type="any", attributes=[], sublabels=[])
        for number, name in ((30, "cell"), (40, "nucleus"), (50, "entity"))
    ]
    # The task that a server would hold; all else is the SDK's.
    driver.TaskDataset = lambda *_, **__: SimpleNamespace(labels=labels, samples=[sample])
    uploaded: list[Any] = []

    def upload(action: str, task: int, patched_labeled_data_request: Any) -> None:
        assert (action, task) == ("create", 1)
        uploaded.extend(patched_labeled_data_request.shapes)

    api = SimpleNamespace(partial_update_annotations=upload)
    client = SimpleNamespace(tasks=SimpleNamespace(api=api), logger=logging.getLogger())
    annotate_task(client, 1, function, **options)
    return [shape.to_dict() for shape in uploaded]


def interact(path: str, function: Any, **prompts: Any) -> list[dict[str, Any]]:
    """Answer clicks and a box on a frame, as the agent does."""
    AgentInteractionFunctionDriver.init_worker(None)
    set_worker_current_function(function)
    executor = SimpleNamespace(
        submit=lambda work, *arguments: work(*arguments), result=lambda result: result
    )
    agent = AgentInteractionFunctionDriver(SimpleNamespace(), executor, function.spec)
    agent._get_sample_from_ar_params = lambda _: (
        SimpleNamespace(media=SimpleNamespace(load_image=lambda: PIL.Image.open(path))),
        None,
    )
    parameters = {"type": "interact", "task": 1, "frame": 7, **prompts}
    answers = [agent.calculate_result_for_ar(parameters, None)["shapes"] for _ in range(2)]
    assert answers[0] == answers[1]
    for shape in answers[1]:
        shape["attributes"] = [each.to_dict() for each in shape["attributes"]]
    return answers[1]


def main() -> None:
    """Print the shapes of all functions."""
    address, path = sys.argv[1:]
    gateway = f"gateway=str:{address}"
    search = ("points_per_side=int:8", "min_iou=float:0.5", "min_stability=float:0.5")
    everything = load(DETECTION, gateway, "everything=bool:true", *search)
    nuclei = load(DETECTION, gateway, "classes=str:nucleus")
    interactor = load(INTERACTION, gateway, "tile_size=int:0")
    click = {"pos_points": [[60.25, 40.5]], "neg_points": [[10.0, 60.0]], "obj_bbox": []}
    box = {"pos_points": [], "neg_points": [], "obj_bbox": [[20.5, 30.0], [160.4, 160.0]]}
    none = {"pos_points": [], "neg_points": [[1.0, 1.0]], "obj_bbox": []}
    found = {
        "nuclei": annotate(path, nuclei),
        "good": annotate(path, nuclei, conf_threshold=0.5),
        "polygons": annotate(path, nuclei, conv_mask_to_poly=True),
        "everything": annotate(path, everything),
        "click": interact(path, interactor, **click),
        "box": interact(path, interactor, **box),
        "none": interact(path, interactor, **none),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
