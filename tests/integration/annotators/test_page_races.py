"""What the playground does with things that come late, are cancelled or denied, in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cpcsam.client import Prompt
from tests.support.servers.playground import (
    CLICKS,
    NUCLEI,
    SIZE,
    TILE,
    Playground,
    served_masks,
)

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
AWAY = '{"code": "UNAVAILABLE", "detail": "Triton: got no answer; try again"}'
UPLOAD, BY_ID = "upload", "by id"


def kind_of(request: Any) -> str:
    """Tell whether a request sends the image, or names it."""
    return BY_ID if request.headers.get("content-type") == "application/json" else UPLOAD


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


def test_classes_can_be_found_where_the_first_upload_was_cancelled(playground: Playground) -> None:
    page = playground.page
    known = '{"classes": [{"name": "nucleus", "prototypes": 3}]}'
    page.route("**/v1/classes", lambda route: route.fulfill(body=known))
    page.reload()
    page.route("**/v1/segment", lambda route: None)
    with page.expect_request("**/v1/segment"):
        page.set_input_files("#file", NUCLEI)
    page.keyboard.press("Escape")
    page.unroute("**/v1/segment")
    playground.unfold("classes")
    page.check("#classes input")
    with page.expect_request("**/v1/segment"):
        page.click("#find-run")
    playground.settle()


@pytest.mark.parametrize("focus", ["#zoom-in", "#tools button >> nth=0", "#one-click"])
def test_space_moves_the_image_whatever_has_the_focus(playground: Playground, focus: str) -> None:
    page = playground.page
    playground.open(NUCLEI)
    page.focus(focus)
    page.mouse.move(*playground.place(20, 46))
    page.keyboard.down("Space")
    page.mouse.down()
    page.mouse.move(*playground.place(50, 70), steps=4)
    page.keyboard.up("Space")  # the move outlasts the key
    page.mouse.move(*playground.place(60, 80), steps=4)
    page.mouse.up()
    playground.settle()
    assert playground.areas() == []
    assert not page.is_checked("#one-click")


def test_arrow_keys_choose_a_tool(playground: Playground) -> None:
    page = playground.page
    playground.open(NUCLEI)
    page.focus("#tools [aria-checked=true]")
    for key, tool in (
        ("ArrowRight", "background"),
        ("ArrowDown", "box"),
        ("ArrowLeft", "background"),
    ):
        page.keyboard.press(key)
        assert page.locator("#stage").get_attribute("data-tool") == tool
        assert page.evaluate("document.activeElement.ariaChecked") == "true"
    assert page.locator("#tools [tabindex='0']").count() == 1


def test_cursor_has_a_preview_where_it_places_a_foreground_point(playground: Playground) -> None:
    page = playground.page
    playground.open(NUCLEI)
    asked = len(playground.requests)
    for key in ("2", "ArrowUp", "3", "ArrowUp"):
        page.keyboard.press(key)
    page.keyboard.press("1")
    with page.expect_request("**/v1/segment"):
        page.keyboard.press("ArrowUp")
    playground.settle()
    assert len(playground.requests) == asked + 1


@pytest.mark.parametrize("ending", ["webp", "png"])
def test_image_that_only_the_service_would_turn_is_segmented_as_it_is_shown(
    playground: Playground, gateway: Any, tmp_path: Path, ending: str
) -> None:
    path, exif = tmp_path / f"turned.{ending}", Image.Exif()
    exif[0x0112] = 6
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    with Image.open(NUCLEI) as image:
        image.save(path, lossless=True, exif=exif if ending == "webp" else b"", pnginfo=text)
    playground.open(path)
    assert playground.page.get_by_text("Shown otherwise").count() == 0
    playground.click(*CLICKS[0])
    [expected] = served_masks(gateway, [Prompt((CLICKS[0],))])
    assert playground.areas() == pytest.approx([int(expected.sum())], rel=0.02)


def test_page_works_where_the_browser_keeps_nothing(browser: Any, url: str) -> None:
    context = browser.new_context(viewport=SIZE)
    context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("denied"); } });"""
    )
    playground = Playground(context, url)
    playground.open(NUCLEI)
    playground.page.keyboard.press("t")
    assert playground.page.evaluate("document.documentElement.dataset.theme") == "light"
    assert not playground.errors
    context.close()


@pytest.mark.parametrize("away", ["**/v1/**", "**/v1/classes"])
def test_page_opened_while_the_service_is_away_connects_when_it_is_back(
    playground: Playground, away: str
) -> None:
    page = playground.page
    page.route(away, lambda route: route.fulfill(status=503, body=AWAY))
    page.reload()
    page.get_by_role("alert").wait_for()
    playground.unfold("everything")
    page.fill("#min-iou", "0.3")
    with page.expect_response(lambda answer: answer.url.endswith("v1/classes") and answer.ok):
        page.unroute(away)
    page.locator("#model:not([hidden])").wait_for(state="attached")
    assert page.evaluate("document.getElementById('everything').checkValidity()")
    assert page.input_value("#min-iou") == "0.3"
    assert page.input_value("#tile") == str(TILE)
    assert page.get_by_role("alert").count() == 1


def test_image_is_sent_again_for_a_click_alone_and_keeps_its_id(
    playground: Playground, tmp_path: Path
) -> None:
    page, path = playground.page, tmp_path / "tiled.png"
    with Image.open(NUCLEI) as image:
        Image.fromarray(np.tile(np.asarray(image), (1, 8))).save(path)
    playground.open(path)
    answers: list[tuple[str, int]] = []

    def note(answer: Any) -> None:
        if "/v1/" in answer.url:
            answers.append((kind_of(answer.request), answer.status))

    page.on("response", note)

    def answers_of(act: Callable[[], None], *expected: tuple[str, int]) -> None:
        answers.clear()
        act()
        deadline = monotonic() + 60
        while len(answers) < len(expected) and monotonic() < deadline:
            page.wait_for_timeout(20)
        playground.settle()
        assert answers == [*expected]

    def press() -> None:
        page.mouse.down()
        page.mouse.up()

    middle, left = playground.place(512, 64), playground.place(*CLICKS[0])
    answers_of(lambda: page.mouse.move(*left), (BY_ID, 404))

    page.route("**/v1/segment", lambda route: kind_of(route.request) == BY_ID and route.continue_())
    with page.expect_request(lambda request: kind_of(request) == UPLOAD):
        press()
    page.keyboard.press("Escape")
    page.unroute("**/v1/segment")
    page.keyboard.press("n")
    answers_of(lambda: page.mouse.move(*middle), (BY_ID, 200))

    answers_of(lambda: page.mouse.move(*left), (BY_ID, 404))
    answers_of(press, (BY_ID, 404), (UPLOAD, 200))
    page.keyboard.press("n")
    answers_of(lambda: page.mouse.move(*left), (BY_ID, 200))
