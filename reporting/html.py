"""Self-contained HTML pages: jinja2 templates that escape their values and load nothing."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["data_uri", "render_page"]

TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render_page(template: str, **values: Any) -> str:
    """Render a template of `reporting/templates`.

    Args:
        template: its file name without `.html.j2`.
        values: its variables; text is escaped.

    Returns:
        HTML that loads nothing from elsewhere.
    """
    return TEMPLATES.get_template(f"{template}.html.j2").render(values)


def data_uri(image: bytes) -> str:
    """Encode a PNG or JPEG file as a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
