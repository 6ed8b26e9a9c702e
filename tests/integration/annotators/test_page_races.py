"""What the playground does with things that come late or are cancelled, in Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.support.servers.playground import CLICKS, NUCLEI, Playground

pytestmark = [pytest.mark.slow, pytest.mark.triton]

SLOW_FIRST_DECODING = """() => {
  const decode = createImageBitmap;
  let count = 0;
  window.createImageBitmap = async (file) => {
    const isFirst = count++ === 0;
    const bitmap = await decode(file);
    if (isFirst) await new Promise((resolve) => setTimeout(resolve, 700));
    return bitmap;
  };
}"""


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    path = tmp_path / "wide.png"
    Image.new("L", (96, 64), 90).save(path)
    return path


def test_image_that_is_decoded_late_does_not_replace_a_newer_one(
    playground: Playground, wide: Path
) -> None:
    playground.page.evaluate(SLOW_FIRST_DECODING)
    playground.page.set_input_files("#file", wide)
    playground.open(NUCLEI)
    playground.page.wait_for_timeout(1200)
    playground.settle()
    assert NUCLEI.name in playground.page.locator("#image-name").inner_text()
    playground.click(*CLICKS[0])
    assert len(playground.areas()) == 1


def test_click_that_is_held_is_a_click(playground: Playground) -> None:
    playground.open(NUCLEI)
    playground.page.mouse.move(*playground.place(*CLICKS[0]))
    playground.page.mouse.down()
    playground.page.wait_for_timeout(500)
    playground.page.mouse.up()
    playground.settle()
    assert len(playground.areas()) == 1


def test_entities_are_numbered_anew_when_one_is_removed(playground: Playground) -> None:
    page = playground.page
    playground.open(NUCLEI)
    for click in CLICKS[:2]:
        page.keyboard.press("n")
        playground.click(*click)
    page.get_by_role("button", name="Remove entity 1").click()
    assert page.locator("#entities .entity-label").get_attribute("placeholder") == "entity 1"
    assert page.get_by_role("button", name="Remove entity 1").count() == 1


def test_box_that_was_begun_by_keys_is_forgotten_with_its_image(
    playground: Playground, wide: Path
) -> None:
    page = playground.page
    playground.open(NUCLEI)
    page.keyboard.press("3")
    for key in ("ArrowUp", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    playground.open(wide)
    for key in ("ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    playground.settle()
    assert page.locator("#entity-count").inner_text() == "0"


def test_teaching_that_is_cancelled_is_no_error(playground: Playground) -> None:
    page = playground.page
    playground.open(NUCLEI)
    playground.click(*CLICKS[0])
    playground.unfold("classes")
    page.fill("#class-name", "nucleus")
    page.route("**/v1/classes", lambda route: None)
    page.click("#teach-run")
    page.click("#cancel")
    page.locator("#cancel").wait_for(state="hidden")
    page.wait_for_timeout(200)
    assert page.locator(".message.error").count() == 0
    assert page.locator("#classes li").count() == 0
