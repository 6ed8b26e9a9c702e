from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from serving.http.label_studio.label_config import Control, parse_label_config
from serving.http.label_studio.predictions import _searches
from serving.http.problems import Problem

CONFIG = """
<View>
  <Image name="image" value="$picture"/>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="Nucleus"/></RectangleLabels>
  <Header value="Outlines"/>
  <View><BrushLabels name="brush" toName="image" model_score_threshold="0.25">
    <Label value="Nucleus" predicted_values="nucleus, nuclei"/><Label value="Other"/>
  </BrushLabels></View>
  <PolygonLabels name="outline" toName="image" model_everything="Thing"
                 model_points_per_side="12" model_min_iou="0.4">
    <Label value="Thing"/>
  </PolygonLabels>
  <KeyPointLabels name="click" toName="image" smart="true">
    <Label value="Nucleus"/><Label value="Beside" model_negative="true"/>
  </KeyPointLabels>
</View>
"""


def test_parse_label_config_reads_images_and_controls() -> None:
    config = parse_label_config(CONFIG)
    assert config.images == {"image": "picture"}
    assert [control.name for control in config.outputs("image")] == ["brush", "outline", "box"]
    brush = config.output_of("image", "Nucleus")
    assert (brush.name, brush.min_score, brush.everything) == ("brush", 0.25, None)
    assert [label.classes for label in brush.labels] == [("nucleus", "nuclei"), ("Other",)]
    outline = config.output_of("image", "Thing")
    assert outline.everything == "Thing"
    assert outline.search == {"points_per_side": 12, "min_iou": 0.4}
    click = config.control("click")
    assert click is not None
    assert click.is_smart
    assert [label.is_negative for label in click.labels] == [False, True]


def test_everything_of_an_alias_gets_that() -> None:
    text = CONFIG.replace('<Label value="Thing"/>', '<Label value="Thing" alias="t"/>')
    assert parse_label_config(text).output_of("image", "Thing").everything == "t"


@pytest.mark.parametrize("label", ["Beside", "Unknown"])
def test_output_of_label_without_a_control_is_refused(label: str) -> None:
    with pytest.raises(Problem, match=f"no BrushLabels.* the label '{label}'"):
        parse_label_config(CONFIG).output_of("image", label)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("<View", "no element found|unclosed token"),
        ("", "no element found"),
        ("<View/>", "no Image"),
        ("<View>\ud800</View>", "surrogates not allowed"),
        ('<View><Image name="i" value="fixed.png"/></View>', "no Image"),
        ('<!DOCTYPE V [<!ENTITY a "b">]><View>&a;</View>', "a document type"),
        ('<!DOCTYPE V SYSTEM "file:///etc/hostname"><View/>', "a document type"),
        ("<View>&a;</View>", "undefined entity"),
        ("<V>" * 65 + "</V>" * 65, "a deeper tree"),
        (" " * (1 << 20) + "<View/>", "1048583 characters"),
        (
            '<V><BrushLabels name="b" model_everything="x"/></V>',
            "everything='x'",
        ),
        ('<V><BrushLabels name="b" model_score_threshold="nan"/></V>', "threshold='nan'"),
    ],
)
def test_parse_label_config_of_something_else_is_refused(text: str, got: str) -> None:
    with pytest.raises(Problem, match=f"^label_config: got .*({got})") as refusal:
        parse_label_config(text)
    assert refusal.value.status == 400


def test_parse_label_config_refuses_text_that_is_no_unicode() -> None:
    with pytest.raises(Problem, match="expected XML") as caught:
        parse_label_config(CONFIG.replace("Outlines", "\ud800"))
    assert caught.value.status == 400


class Counted(tuple[Control, ...]):
    """Controls that count how many of them were looked at."""

    looked_at = 0

    def __iter__(self) -> Iterator[Control]:
        for control in super().__iter__():
            Counted.looked_at += 1
            yield control


def test_controls_are_not_looked_at_once_an_image() -> None:
    images = "".join(f'<Image name="i{number}" value="$i"/>' for number in range(200))
    controls = '<BrushLabels name="b" toName="i0"><Label value="cell"/></BrushLabels>' * 100
    config = parse_label_config(f"<View>{images}{controls}</View>")
    config = replace(config, controls=Counted(config.controls))
    assert len(_searches(config, ["cell"])) == 1
    assert Counted.looked_at < 1000


def test_label_of_nested_controls_belongs_to_the_inner_one() -> None:
    config = parse_label_config(
        '<View><Label value="none"/><Image name="i" value="$i"/>'
        '<BrushLabels name="outer" toName="i"><Label value="a"/>'
        '<PolygonLabels name="inner" toName="i"><View><Label value="b"/></View></PolygonLabels>'
        '<Label value="c"/></BrushLabels></View>'
    )
    labels = {control.name: [each.value for each in control.labels] for control in config.controls}
    assert labels == {"inner": ["b"], "outer": ["a", "c"]}
