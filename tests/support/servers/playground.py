"""The playground in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpcsam.client import Prompt, SegmentationClient
from tests.support.paths import ROOT

NUCLEI = ROOT / "docs/images/nuclei.png"
CLICKS = [(62.0, 76.0), (64.0, 41.0), (33.0, 58.0)]
TILE = 256
CHROMIUM = shutil.which("chromium") or ""
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
).split()
SIZE = {"width": 1280, "height": 800}
PATIENCE_MS = 180_000


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, or a skip with its reason where it or Playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("chromium is not installed; apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Playground:
    """An open page, with what the console said.

    Args:
        context: of the browser, which several pages may share: it keeps the compiled scripts.
        url: of the front.
    """

    def __init__(self, context: Any, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.in_work = self.most_in_work = 0
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._count(request, 1))
        self.page.on("requestfinished", lambda request: self._count(request, -1))
        self.page.on("requestfailed", lambda request: self._count(request, -1))
        self.page.goto(f"{url}/")
        self.page.locator("#model:not([hidden])").wait_for(state="attached")

    def _console(self, message: Any) -> None:
        # Answers other than 2xx are told by Chromium itself, and are the service's business.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def _count(self, request: Any, by: int) -> None:
        if "/v1/" not in request.url:
            return
        self.in_work += by
        self.most_in_work = max(self.most_in_work, self.in_work)
        if by > 0:
            self.requests.append(request.url.rpartition("/v1/")[2])

    def open(self, path: Path) -> None:
        """Open an image file and wait until it is sent."""
        before = len(self.requests)
        self.page.set_input_files("#file", path)
        self.page.locator("#image-name", has_text=path.name).wait_for(state="attached")
        while len(self.requests) == before:
            self.page.wait_for_timeout(20)
        self.settle()

    def settle(self) -> None:
        """Wait until no work is left and every entity has its mask."""
        self.page.wait_for_timeout(80)
        self.page.locator("#progress").wait_for(state="hidden")
        self.page.locator(".score.is-waiting").first.wait_for(state="detached")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the image, shown as a whole, lies on the page."""
        box = self.page.locator("#viewer").bounding_box()
        width, height = map(int, re.findall(r"(\d+) × (\d+)", self._name())[0])
        scale = min(box["width"] / width, box["height"] / height)
        return (
            box["x"] + (box["width"] - width * scale) / 2 + x * scale,
            box["y"] + (box["height"] - height * scale) / 2 + y * scale,
        )

    def click(self, x: float, y: float, *, background: bool = False) -> None:
        """Click on a point of the image, and wait for the mask."""
        if background:
            self.page.keyboard.down("Shift")
        self.page.mouse.click(*self.place(x, y))
        if background:
            self.page.keyboard.up("Shift")
        self.settle()

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Drag a box, and wait for the mask."""
        self.page.mouse.move(*self.place(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(x1, y1), steps=4)
        self.page.mouse.up()
        self.settle()

    def areas(self) -> list[int]:
        """Pixels of all entities, in their order in the list."""
        texts = self.page.locator("#entities .area").all_inner_texts()
        return [int(text.removesuffix(" px").replace(",", "")) for text in texts]

    def export(self, ending: str, folder: Path) -> Path:
        """Save an export and return its file."""
        self.unfold("export")
        with self.page.expect_download() as download:
            self.page.click(f'[data-format="{ending}"]')
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def unfold(self, panel: str) -> None:
        """Open a section of the panel."""
        if self.page.locator(f"#{panel}-panel:not([open])").count():
            self.page.click(f"#{panel}-panel summary")

    def close(self) -> None:
        """Close the page; it must have had no error, nor broken its own CSP."""
        self.page.evaluate("localStorage.clear()")
        self.page.close()
        assert not self.errors

    def _name(self) -> str:
        return str(self.page.locator("#image-name").text_content())


def served_masks(gateway: Any, prompts: list[Prompt]) -> list[np.ndarray]:
    """The masks that the page should show of NUCLEI, by a client of the gateway."""
    with SegmentationClient(gateway.address) as client:
        result = client.segment(NUCLEI, prompts, tile_size=TILE)
    return [masks[0].array for masks in result.masks]
