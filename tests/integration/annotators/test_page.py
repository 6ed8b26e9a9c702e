"""The playground in Chromium, against the real Triton, gateway and HTTP front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.http.front import running_front
from cpcsam.client import Prompt
from serving.gateway.auth.tokens import EDITOR, Token, digest_of, write_tokens
from serving.gateway.config import GatewayConfig
from serving.gateway.run import gateway_in_background
from serving.triton.launch import TritonServer
from tests.support.servers.playground import (
    CLICKS,
    NUCLEI,
    SIZE,
    TILE,
    Playground,
    served_masks,
)

pytestmark = [pytest.mark.slow, pytest.mark.triton]

RECORD = """() => {
  const send = window.fetch;
  window.asked = [];
  window.fetch = async (path, options) => {
    const { body } = options;
    const isForm = body instanceof FormData;
    window.asked.push(JSON.parse(isForm ? await body.get("request").text() : (body ?? null)));
    return send(path, options);
  };
}"""
FORM = {"points_per_side": 4, "min_area": 3, "min_iou": 0.4, "min_stability": 0.6}
BY_TEXT = {"name": "cell", "prototypes": 0, "texts": ["a cell"]}


def test_clicks_and_boxes_give_the_masks_of_the_service(
    playground: Playground, gateway: Any
) -> None:
    (x, y), other = CLICKS[0], CLICKS[1]
    box = (20.0, 46.0, 50.0, 70.0)
    prompts = [
        Prompt(((x, y),)),
        Prompt(((x, y), other), (1, 0)),
        Prompt(box=box),
    ]
    expected = [int(mask.sum()) for mask in served_masks(gateway, prompts)]
    playground.open(NUCLEI)
    playground.click(x, y)
    assert playground.areas() == pytest.approx([expected[0]], rel=0.02)
    playground.click(*other, background=True)
    assert playground.areas() == pytest.approx([expected[1]], rel=0.02)
    playground.page.keyboard.press("n")
    playground.drag(*box)
    assert playground.areas() == pytest.approx(expected[1:], rel=0.05)


def test_undo_and_redo_need_no_further_request(playground: Playground) -> None:
    playground.open(NUCLEI)
    playground.page.uncheck("#has-preview")
    playground.click(*CLICKS[0])
    playground.click(*CLICKS[1], background=True)
    with_background = playground.areas()
    asked = len(playground.requests)
    playground.page.keyboard.press("Control+z")
    assert playground.areas() != with_background
    playground.page.keyboard.press("Control+z")
    assert playground.areas() == []
    for _ in range(2):
        playground.page.keyboard.press("Control+Shift+Z")
    assert playground.areas() == with_background
    assert len(playground.requests) == asked


def test_everything_can_be_done_by_keys(playground: Playground) -> None:
    page = playground.page
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "sample":
            break
    page.keyboard.press("Enter")
    page.locator("#image-name", has_text="696").wait_for()
    page.locator("#timing strong").wait_for()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    playground.settle()
    (area,) = playground.areas()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+Enter")
    playground.settle()
    assert len(playground.areas()) == 1
    assert "score" in page.locator("#live").inner_text()
    page.keyboard.press("n")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    for key in ("ArrowRight", "ArrowDown") * 8:
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    playground.settle()
    assert len(playground.areas()) == 2
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Delete")
    assert len(playground.areas()) == 1
    assert area > 0


def test_class_taught_by_everything_is_found_in_another_image(
    playground: Playground, tmp_path: Path
) -> None:
    page = playground.page
    playground.open(NUCLEI)
    page.fill("#label", "nucleus")
    playground.unfold("everything")
    page.click("#everything-run")
    playground.settle()
    taught = len(playground.areas())
    assert taught >= 4
    playground.unfold("classes")
    page.fill("#class-name", "nucleus")
    page.click("#teach-run")
    page.locator("#classes li").wait_for()
    page.click("#teach-run")
    error = page.get_by_role("alert").inner_text()
    assert "nucleus" in error and "→" not in error  # the arrow is the style sheet's
    assert page.locator(".message.error .fix").inner_text()

    mirrored = tmp_path / "mirrored.png"
    Image.open(NUCLEI).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    playground.open(mirrored)
    page.click("#find-run")
    playground.settle()
    found = page.locator("#entities .entity-label")
    assert found.count() >= taught / 2
    assert {found.nth(index).input_value() for index in range(found.count())} == {"nucleus"}
    page.get_by_role("button", name="Remove the class nucleus").click()
    page.locator("#classes li").wait_for(state="detached")


@pytest.mark.parametrize(("prototypes", "tile", "everything"), [(0, TILE, FORM), (9, None, None)])
def test_class_by_text_is_found_with_the_form_and_leaves_the_tiles_open(
    playground: Playground, prototypes: int, tile: int | None, everything: Any
) -> None:
    page = playground.page
    known = json.dumps({"classes": [{**BY_TEXT, "prototypes": prototypes}]})
    page.route("**/v1/classes", lambda route: route.fulfill(body=known))
    page.reload()
    playground.open(NUCLEI)
    playground.click(*CLICKS[0])
    page.evaluate(RECORD)
    for panel in ("everything", "classes"):
        playground.unfold(panel)
    for name, value in FORM.items():
        page.fill(f"[name={name}]", str(value))
    page.fill("#class-name", "nucleus")
    page.click("#teach-run")
    page.check("#classes input")
    page.click("#find-run")
    playground.settle()
    taught, found = page.evaluate("asked")
    assert (taught.get("tile_size"), taught["name"]) == (tile, "nucleus")
    assert (found.get("everything"), found["classes"]) == (everything, ["cell"])


def test_token_is_asked_for_and_kept_for_the_tab(
    browser: Any, shipped: TritonServer, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    write_tokens(tokens, [Token("lab", EDITOR, digest_of("secret-token"))])
    config = GatewayConfig(triton=shipped.grpc_url, port=0, metrics_port=0, tokens=tokens)
    with (
        gateway_in_background(config) as gateway,
        running_front(gateway.address, tmp_path / "stderr") as front,
    ):
        context = browser.new_context()
        page = context.new_page()
        page.goto(front.url)
        page.locator("#token-dialog[open]").wait_for()
        assert "token" in page.locator("#token-note").inner_text()
        page.fill("#token", "secret-token")
        page.keyboard.press("Enter")
        page.locator("#model").wait_for()
        page.reload()
        page.locator("#model").wait_for()
        stored = page.evaluate("[sessionStorage.length, Object.values(localStorage).join()]")
        assert stored[0] == 1 and "secret" not in stored[1]
        context.close()


def test_tap_on_a_small_screen_places_a_point(browser: Any, url: str) -> None:
    screen = {"width": 420, "height": 860}
    context = browser.new_context(viewport=screen, has_touch=True, is_mobile=True)
    playground = Playground(context, url)
    playground.open(NUCLEI)
    playground.page.touchscreen.tap(*playground.place(*CLICKS[0]))
    playground.settle()
    assert len(playground.areas()) == 1
    assert playground.page.evaluate("document.documentElement.scrollWidth") <= screen["width"]
    playground.close()


def test_hover_keeps_one_request_in_work(playground: Playground) -> None:
    playground.open(NUCLEI)
    playground.most_in_work = 0
    asked = len(playground.requests)
    steps = 0
    while steps < 60 or len(playground.requests) - asked < 4:
        assert steps < 2000, playground.requests
        x, y = CLICKS[steps % 3]
        playground.page.mouse.move(*playground.place(x + steps % 5, y))
        playground.page.wait_for_timeout(50)
        steps += 1
    playground.page.mouse.move(5, 5)
    playground.settle()
    assert playground.most_in_work == 1
    assert len(playground.requests) - asked <= steps + 1
    assert playground.areas() == []


@pytest.mark.parametrize("is_each_new", [False, True])
def test_preview_asks_for_what_the_click_gives(playground: Playground, is_each_new: bool) -> None:
    page = playground.page
    playground.open(NUCLEI)
    playground.drag(20.0, 46.0, 50.0, 70.0)
    page.set_checked("#one-click", is_each_new)
    page.evaluate(RECORD)
    page.mouse.move(*playground.place(*CLICKS[2]))
    page.wait_for_function("asked.length === 1")
    playground.click(*CLICKS[2])
    preview, *_, click = page.evaluate("asked")
    assert preview == click
    assert ("box" in click["prompts"][0]) != is_each_new


def test_preview_ends_with_the_selection_that_it_refines(playground: Playground) -> None:
    page = playground.page
    playground.open(NUCLEI)
    playground.click(*CLICKS[0])
    page.route("**/v1/segment", lambda route: None)
    with page.expect_event("requestfailed"):
        with page.expect_request("**/v1/segment"):
            page.mouse.move(*playground.place(*CLICKS[1]))
        page.keyboard.press("n")


def test_large_image_is_cut_into_tiles_and_segmented_where_it_is_clicked(
    playground: Playground, tmp_path: Path
) -> None:
    image = Image.new("L", (4800, 4200), 20)
    ImageDraw.Draw(image).ellipse((3940, 2955, 4060, 3045), fill=170)
    image.save(tmp_path / "large.png")
    playground.open(tmp_path / "large.png")
    playground.click(4000, 3000)
    record = json.loads(playground.export("coco.json", tmp_path).read_text())
    (found,) = record["annotations"]
    assert (record["images"][0]["width"], record["images"][0]["height"]) == (4800, 4200)
    x, y, width, height = found["bbox"]
    assert x <= 4000 <= x + width and y <= 3000 <= y + height
    assert found["area"] == pytest.approx(np.pi * 60 * 45, rel=0.2)
    tiles = playground.page.evaluate("document.querySelectorAll('#viewer canvas').length")
    assert tiles >= 2  # the image's and the overlay's


def test_calibration_is_offered_by_models_that_calibrate_alone(playground: Playground) -> None:
    described = playground.page.request.get(f"{playground.page.url}v1/describe").json()
    calibrates = described["model"].get("calibrates", False)
    assert playground.page.locator("#calibration").is_visible() == calibrates
    assert not calibrates


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_and_controls_have_names(browser: Any, url: str, scheme: str) -> None:
    context = browser.new_context(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
    playground = Playground(context, url)
    playground.open(NUCLEI)
    playground.click(*CLICKS[0])
    for panel in ("everything", "classes", "export"):
        playground.unfold(panel)
    script = (Path(__file__).parent / "accessibility.js").read_text()
    found = playground.page.evaluate(script)
    assert found["checked"] > 40
    assert found["unnamed"] == []
    assert found["faint"] == []
    playground.close()
