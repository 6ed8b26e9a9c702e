"""Labelling configurations of Label Studio: its images, and the controls that hold regions.

Only elements and attributes are read. A document type, and so every entity of its own, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final
from xml.parsers import expat

from serving.http.label_studio.records import invalid
from serving.http.problems import Problem, quoted

__all__ = ["Control", "Label", "LabelConfig", "parse_label_config"]

OUTPUTS: Final = ("brushlabels", "polygonlabels", "rectanglelabels")
"""Controls that answers are given in, those that hold most of a mask first."""
CONTROLS: Final = (*OUTPUTS, "keypointlabels")
SEARCH: Final = {"points_per_side": 256.0, "min_iou": 1.0, "min_stability": 1.0}
"""Fields of `Everything` that attributes set, and their greatest values."""
MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 64


@dataclass(frozen=True)
class Label:
    """One choice of a control.

    Attributes:
        value: its name as regions have it, which is its alias if it has one.
        classes: names of the classes that it stands for.
        is_negative: whether a click with it lies on the background.
        shown: its name as annotators see it; empty is `value`.
    """

    value: str
    classes: tuple[str, ...]
    is_negative: bool = False
    shown: str = ""


@dataclass(frozen=True)
class Control:
    """A control tag of the configuration.

    Attributes:
        kind: its name in lower case, which is the type of its regions.
        name: regions refer to it by `from_name`.
        to_name: name of its image.
        labels: its choices.
        is_smart: whether its regions ask for predictions.
        everything: label that everything in an image gets before a person sees it; None asks for
            classes instead.
        min_score: masks with a lower score are left out.
        search: values of `Everything` by field, where they are not the server's defaults.
    """

    kind: str
    name: str
    to_name: str
    labels: tuple[Label, ...] = ()
    is_smart: bool = False
    everything: str | None = None
    min_score: float = 0.0
    search: Mapping[str, float] = field(default_factory=dict)

    def label(self, value: str) -> Label | None:
        """Return the choice of a name or an alias, the first of several; None without one."""
        return self._labels.get(value)

    @cached_property
    def _labels(self) -> Mapping[str, Label]:
        shown = {label.shown: label for label in reversed(self.labels) if label.shown}
        return shown | {label.value: label for label in reversed(self.labels)}


@dataclass(frozen=True)
class LabelConfig:
    """What a labelling configuration tells of images.

    Attributes:
        images: key of a task's data by the name of the image that shows it.
        controls: those of images.
    """

    images: Mapping[str, str]
    controls: tuple[Control, ...]

    def outputs(self, to_name: str) -> Sequence[Control]:
        """Return the controls of an image that can hold answers, the best first."""
        return self._outputs.get(to_name, ())

    def control(self, name: str) -> Control | None:
        """Return the control of a name, the first of several; None if there is none."""
        return self._controls.get(name)

    # A configuration may have thousands of images and of controls: one pass over them is for all.
    @cached_property
    def _outputs(self) -> Mapping[str, Sequence[Control]]:
        found: dict[str, list[Control]] = {}
        for kind in OUTPUTS:
            for control in self.controls:
                if control.kind == kind:
                    found.setdefault(control.to_name, []).append(control)
        return found

    @cached_property
    def _controls(self) -> Mapping[str, Control]:
        return {control.name: control for control in reversed(self.controls)}

    def output_of(self, to_name: str, label: str) -> Control:
        """Return the control that holds the answer for a label.

        Raises:
            Problem: 400, no control of the image has it.
        """
        for control in self.outputs(to_name):
            if control.label(label) is not None:
                return control
        raise invalid(
            "label_config",
            f"no BrushLabels, PolygonLabels or RectangleLabels with the label {quoted(label)}",
            "one of them, which holds the answer",
            "add it to the labelling configuration",
        )


def parse_label_config(text: str) -> LabelConfig:
    """Parse a labelling configuration, XML.

    Raises:
        Problem: 400, it is too large or no such configuration, or it has no image.
    """
    if len(text) > MAX_BYTES:
        raise _invalid(f"{len(text)} characters", f"at most {MAX_BYTES}")
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = builder.refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise _invalid(str(error), "XML") from None
    config = LabelConfig(builder.images, tuple(builder.controls))
    if not config.images:
        raise _invalid("no Image with a value", "one, such as $image")
    return config


class _Builder:
    """Handlers of the elements of a configuration."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}
        self.controls: list[Control] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self._labels: list[list[Label]] = []

    def refuse_doctype(self, *_: object) -> None:
        raise _invalid("a document type", "none")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        kind = tag.lower()
        if len(self._open) >= MAX_DEPTH:
            raise _invalid("a deeper tree", f"at most {MAX_DEPTH} levels")
        if kind == "image" and attributes.get("value", "").startswith("$"):
            self.images[attributes.get("name", "")] = attributes["value"][1:]
        if kind == "label" and self._labels:
            self._labels[-1].append(_label(attributes))
        if kind in CONTROLS:
            self._labels.append([])
        self._open.append((kind, attributes))

    def end(self, tag: str) -> None:
        kind, attributes = self._open.pop()
        if kind in CONTROLS:
            self.controls.append(_control(kind, attributes, self._labels.pop()))


def _label(attributes: Mapping[str, str]) -> Label:
    shown = attributes.get("value", "")
    predicted = (name.strip() for name in attributes.get("predicted_values", "").split(","))
    classes = tuple(name for name in predicted if name) or (shown,)
    is_negative = attributes.get("model_negative", "").lower() == "true"
    return Label(attributes.get("alias") or shown, classes, is_negative, shown)


def _control(kind: str, attributes: Mapping[str, str], labels: list[Label]) -> Control:
    control = Control(
        kind=kind,
        name=attributes.get("name", ""),
        to_name=attributes.get("toName", attributes.get("toname", "")),
        labels=tuple(labels),
        is_smart=attributes.get("smart", "").lower() == "true",
        everything=attributes.get("model_everything"),
        min_score=_number(attributes, "model_score_threshold", 1.0) or 0.0,
        search={
            name: value
            for name, most in SEARCH.items()
            if (value := _number(attributes, f"model_{name}", most)) is not None
        },
    )
    if control.everything is None:
        return control
    label = control.label(control.everything)
    if label is None:
        raise _invalid(
            f"model_everything={quoted(control.everything)}",
            f"the name of a label of {quoted(control.name)}",
        )
    return replace(control, everything=label.value)


def _number(attributes: Mapping[str, str], name: str, most: float) -> float | None:
    """Return the value of an attribute, 0 to `most`; None if it is not there."""
    text = attributes.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise _invalid(f"{name}={quoted(text)}", f"a number from 0 to {most:g}")
    return number


def _invalid(got: str, expected: str) -> Problem:
    return invalid("label_config", got, expected, "correct the labelling configuration")
