"""Asks by X-AnyLabeling's own client, in its environment: python FILE URL IMAGE [TOKEN].

Prints the models that it is offered and the shapes that it would show, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from anylabeling import config
from anylabeling.services.auto_labeling.remote_server import RemoteServer
from PyQt6.QtGui import QImage
from PyQt6.QtWidgets import QApplication


def client_of(url: str, token: str, messages: list[str]) -> Any:
    """Make the client as the application does, from its settings."""
    settings = {"remote_server_settings": {"server_url": url, "api_key": token}}
    config.current_config_file = json.dumps(settings)  # a file's path, or YAML
    model = {"type": "remote_server", "display_name": "Remote-Server", "timeout": 60}
    return RemoteServer(model, messages.append)


def shapes(client: Any, path: str) -> dict[str, Any]:
    """Predict for an image file, and return the shapes as plain values."""
    result = client.predict_shapes(QImage(path), path)
    return {
        "replace": result.replace,
        "shapes": [
            {
                "label": shape.label,
                "type": shape.shape_type,
                "points": [[point.x(), point.y()] for point in shape.points],
                "closed": shape.is_closed(),
                "group_id": shape.group_id,
                "score": shape.score,
            }
            for shape in result.shapes
        ],
    }


def main() -> None:
    """Use all models."""
    url, path, token = [*sys.argv[1:], ""][:3]
    app = QApplication(sys.argv[:1])
    messages: list[str] = []
    client = client_of(url, token, messages)
    told: dict[str, Any] = {"models": client.get_available_models()}
    client.set_model_id("cpcsam-prompts")
    told["batch"] = client.get_batch_processing_mode()
    client.set_task("polygons")
    client.set_auto_labeling_marks([{"type": "point", "data": [60, 40], "label": 1}])
    told["click"] = shapes(client, path)
    client.set_auto_labeling_marks(
        [
            {"type": "point", "data": [60, 40], "label": 1},
            {"type": "point", "data": [5, 5], "label": 0},
            {"type": "rectangle", "data": [20, 20, 100, 90], "label": 1},
        ]
    )
    told["refined"] = shapes(client, path)
    client.set_task("rectangles")
    told["box"] = shapes(client, path)
    client.set_auto_labeling_marks([])
    told["nothing"] = shapes(client, path)
    client.set_task("polygons")
    client.set_model_id("cpcsam-classes")
    client.set_auto_labeling_conf(0.0)
    told["classes"] = shapes(client, path)
    client.set_auto_labeling_filter_classes(["nucleus", "no such class"])
    told["unknown"] = shapes(client, path)
    told["messages"] = messages
    print(json.dumps(told))
    app.quit()


if __name__ == "__main__":
    main()
