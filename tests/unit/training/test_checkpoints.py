"""Official checkpoints verified and listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from cpcsam.model.base_checkpoint import save_base
from cpcsam.model.official_checkpoints import OFFICIAL
from tests.support.model_factory import noisy_sam
from tests.support.servers.file_server import CONTENT, NAME, entry, error_line, run
from training.checkpoints import main


def test_verify_knows_an_official_file_under_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "renamed.pth").write_bytes(CONTENT)
    known = entry("http://127.0.0.1:9/file")
    assert run("verify", tmp_path / "renamed.pth", known=known) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path / 'renamed.pth'}: the official vit_x, sha256 {known.sha256}\n"
    )


def test_verify_describes_the_layout_of_any_other_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = entry("http://127.0.0.1:9/file")
    torch.save(noisy_sam(512).sam.state_dict(), tmp_path / "own.pth")
    save_base(noisy_sam(), tmp_path / "base")
    for name, image_size in (("own.pth", 512), ("base", 256)):
        assert run("verify", tmp_path / name, known=known) == 0
        said = capsys.readouterr().out
        assert f"{name}: vit_t at {image_size}, not an official file, sha256 " in said


def test_verify_refuses_what_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = entry("http://127.0.0.1:9/file")
    state = noisy_sam().sam.state_dict()
    torch.save(state, tmp_path / NAME)
    assert run("verify", tmp_path / NAME, known=known) == 2
    said = error_line(capsys)
    assert "not the official vit_x: got " in said and "your own vit_t" in said
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, tmp_path / "incomplete.pth")
    assert run("verify", tmp_path / "incomplete.pth", known=known) == 2
    assert "1 tensors missing ['mask_decoder.iou_token.weight']" in error_line(capsys)
    assert run("verify", tmp_path / "nothing.pth", known=known) == 2
    assert "nothing.pth: got no such file" in error_line(capsys)


def test_list_prints_every_official_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [
        ["vit_b", "sam_vit_b_01ec64.pth"],
        ["vit_l", "sam_vit_l_0b3195.pth"],
        ["vit_h", "sam_vit_h_4b8939.pth"],
    ]
    for model_size, name, size, sha256, url in lines:
        known = OFFICIAL[model_size]
        assert (int(size), sha256, url) == (known.size_bytes, known.sha256, known.url)
        assert re.fullmatch("[0-9a-f]{64}", sha256) and url.endswith(f"/{name}")


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fetch", "vit_t"])
    assert "invalid choice: 'vit_t'" in capsys.readouterr().err
