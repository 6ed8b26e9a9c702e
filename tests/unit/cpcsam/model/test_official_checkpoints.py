"""The official backbones: every size at every image size, and files that are not what they seem.

Weights are random, in the official names and shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor

from cpcsam.artifacts.manifest import read_manifest, sha256_file
from cpcsam.contract import IMAGE_SIZES
from cpcsam.errors import ArtifactError, ConfigError
from cpcsam.model.base_checkpoint import (
    inspect_base,
    load_base,
    recognise,
    resize_positions,
    save_base,
)
from cpcsam.model.build_sam import ENCODERS, build_sam
from cpcsam.model.lora import LoraConfig
from cpcsam.model.official_checkpoints import (
    OFFICIAL,
    OfficialCheckpoint,
    by_digest,
    identify,
    mismatch,
    named_if_official,
    warn_if_damaged,
)
from cpcsam.model.run_checkpoint import save_run
from cpcsam.model.sam import CpcSam
from cpcsam.model.state_dict import require_fit
from tests.support.model_factory import fill_with_noise, noisy_sam

POS_EMBED = "image_encoder.pos_embed"


def official_state(model_size: str) -> dict[str, Tensor]:
    """The names and shapes of segment-anything's own model, without storage."""
    with torch.device("meta"):
        state: dict[str, Tensor] = sam_model_registry[model_size]().state_dict()
    return state


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the official layout that is not the official file, under another name."""
    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]()
    fill_with_noise(sam, seed=1)
    path = tmp_path_factory.mktemp("vit_b") / "mine.pth"
    torch.save(sam.state_dict(), path)
    return path


@pytest.fixture(scope="module", params=[256, 512])
def smaller(request: pytest.FixtureRequest, vit_b: Path) -> CpcSam:
    """The same at a smaller image size."""
    return load_base(vit_b, "vit_b", request.param)


@pytest.mark.parametrize("model_size", OFFICIAL)
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_every_official_layout_fits_every_image_size(model_size: str, image_size: int) -> None:
    state = official_state(model_size)
    assert recognise(state, "a file") == (model_size, 1024)
    with torch.device("meta"):
        wanted = build_sam(model_size, image_size).state_dict()
    resized = resize_positions(state, model_size, image_size)
    require_fit(resized, wanted, "a file")
    changed = {name for name in state if resized[name].shape != state[name].shape}
    blocks = ENCODERS[model_size].global_attn_indexes
    assert changed == (
        set()
        if image_size == 1024
        else {POS_EMBED}
        | {f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in blocks for axis in "hw"}
    )


def test_vit_b_runs_at_smaller_image_sizes(
    smaller: CpcSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks with windows and a global one, which the others repeat."""
    image_size = smaller.sam.image_encoder.img_size
    grid = image_size // 16
    assert image_size in (256, 512) and smaller.image_size == image_size
    assert smaller.sam.prompt_encoder.input_image_size == (image_size, image_size)
    assert smaller.sam.prompt_encoder.image_embedding_size == (grid, grid)
    windowed, everywhere = (smaller.sam.image_encoder.blocks[index].attn for index in (0, 2))
    assert windowed.rel_pos_h.shape[0] == 2 * 14 - 1
    assert everywhere.rel_pos_h.shape[0] == 2 * grid - 1
    encoder = smaller.sam.image_encoder
    monkeypatch.setitem(encoder._modules, "blocks", encoder.blocks[:3])
    image = torch.randint(256, (1, 3, image_size, image_size), dtype=torch.uint8)
    with torch.no_grad():
        embeddings = smaller.encode_image(image, torch.tensor([[image_size, image_size // 2]]))
    assert embeddings.shape == (1, 256, grid, grid)
    assert bool(torch.isfinite(embeddings).all())
    assert float(embeddings.std()) > 0.1


def test_resized_vit_b_positions_are_interpolated(smaller: CpcSam, vit_b: Path) -> None:
    state = torch.load(vit_b, weights_only=True, mmap=True)
    loaded, image_size = smaller.sam.state_dict(), smaller.image_size
    grid = image_size // 16
    offsets = torch.arange(grid)[:, None] - torch.arange(grid)[None, :] + grid - 1
    for block, axis in ((2, "h"), (11, "w")):
        name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
        torch.testing.assert_close(loaded[name][offsets], get_rel_pos(grid, grid, state[name]))
    windowed = "image_encoder.blocks.3.attn.rel_pos_h"
    assert torch.equal(loaded[windowed], state[windowed])
    ramp = torch.linspace(-1, 1, 64).reshape(1, 64, 1, 1).expand(1, 64, 64, 768)
    resized = resize_positions({**state, POS_EMBED: ramp}, "vit_b", image_size)[POS_EMBED]
    centres = F.avg_pool1d(torch.linspace(-1, 1, 64)[None], 64 // grid)[0]
    torch.testing.assert_close(resized[0, 2:-2, 5, 7], centres[2:-2], rtol=0, atol=1e-5)
    noise = torch.randn(1, 64, 64, 768)
    averaged = resize_positions({**state, POS_EMBED: noise}, "vit_b", image_size)[POS_EMBED]
    assert float(averaged.std()) < 0.5  # 0.64 where samples between the new ones are skipped


def test_inspect_base_builds_no_model(vit_b: Path, tmp_path: Path) -> None:
    assert inspect_base(vit_b) == ("vit_b", 1024)
    save_base(noisy_sam(512), tmp_path / "base")
    assert inspect_base(tmp_path / "base") == ("vit_t", 512)
    state = noisy_sam().sam.state_dict()
    torch.save({**state, "mask_decoder.hf_token.weight": torch.zeros(1, 256)}, tmp_path / "hq.pth")
    with pytest.raises(ArtifactError, match=r"hq\.pth.*1 unknown \['mask_decoder\.hf_token"):
        inspect_base(tmp_path / "hq.pth")
    name = "image_encoder.blocks.3.attn.rel_pos_h"
    torch.save({**state, name: state[name][:-2]}, tmp_path / "rel.pth")
    with pytest.raises(
        ArtifactError, match=r"rel_pos_h: got shape \(29, 32\), expected \(31, 32\)"
    ):
        inspect_base(tmp_path / "rel.pth")
    torch.save({**state, POS_EMBED: torch.zeros(1, 24, 24, 192)}, tmp_path / "odd.pth")
    with pytest.raises(ConfigError, match=r"image_size: got 384, expected 256 \| 512"):
        inspect_base(tmp_path / "odd.pth")


WRONG_LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "parallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "encoder_only": lambda state: {
        name.removeprefix("image_encoder."): value
        for name, value in state.items()
        if name.startswith("image_encoder.")
    },
    "flat_positions": lambda state: {**state, POS_EMBED: state[POS_EMBED].flatten(1, 2)},
    "other_neck": lambda state: {
        **state,
        "image_encoder.neck.0.weight": torch.zeros(128, 192, 1, 1),
    },
}
"""Changes of an official state dict, which it still resembles."""


@pytest.mark.parametrize("kind", WRONG_LAYOUTS)
def test_load_base_similar_layout_raises(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "sam.pth"
    torch.save(WRONG_LAYOUTS[kind](noisy_sam().sam.state_dict()), file)
    with pytest.raises(ArtifactError, match=r"sam\.pth: got \d+ tensors .*, expected SAM's state"):
        load_base(file)


def test_load_base_unknown_width_names_the_known_sizes(tmp_path: Path) -> None:
    state = official_state("vit_l")
    state = {name: value for name, value in state.items() if ".blocks.23." not in name}
    with pytest.raises(ArtifactError, match="width 1024 and 23 blocks, .*vit_b 768×12, vit_l 1024"):
        recognise(state, "a file")


def test_truncated_official_file_names_size_and_digest(vit_b: Path, tmp_path: Path) -> None:
    file = tmp_path / "sam_vit_b_01ec64.pth"
    with vit_b.open("rb") as whole:
        file.write_bytes(whole.read(5_000_000))
    expected = (
        rf"unreadable file of 5000000 bytes .*; not the official vit_b: got 5000000 bytes with "
        rf"sha256 {sha256_file(file)[:12]}, expected 375042383 bytes with ec2df6273261; move it "
        rf"away and fetch it again by python -m training.checkpoints fetch vit_b$"
    )
    for read in (load_base, inspect_base):
        with pytest.raises(ArtifactError, match=expected):
            read(file)


def test_wrong_layout_under_official_name_names_both_errors(tmp_path: Path) -> None:
    file = tmp_path / "sam_vit_l_0b3195.pth"
    torch.save({"fc.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(ArtifactError, match="got 1 tensors .*; not the official vit_l: got "):
        load_base(file)
    torch.save(noisy_sam().sam.state_dict(), file)
    with pytest.raises(ArtifactError, match="got vit_t, expected vit_l.*; not the official vit_l"):
        load_base(file, "vit_l")


def test_custom_weights_under_official_name_load(tmp_path: Path) -> None:
    torch.save(noisy_sam().sam.state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    assert load_base(tmp_path / "sam_vit_b_01ec64.pth").image_size == 256


@pytest.fixture
def known(tmp_path: Path) -> OfficialCheckpoint:
    """A table entry of the file `vit_x.pth` in `tmp_path`."""
    file = tmp_path / "vit_x.pth"
    file.write_bytes(bytes(range(200)))
    return OfficialCheckpoint("vit_x", file.name, 200, sha256_file(file), "http://host/vit_x.pth")


def test_identify_recognises_files_by_content(known: OfficialCheckpoint, tmp_path: Path) -> None:
    file, table = tmp_path / "vit_x.pth", {"vit_x": known}
    assert identify(file, table) is known
    assert identify(file) is None
    assert mismatch(file, known) is None
    assert identify(file.rename(tmp_path / "renamed.pth"), table) is known
    (tmp_path / "renamed.pth").write_bytes(bytes(200))
    assert identify(tmp_path / "renamed.pth", table) is None
    difference = mismatch(tmp_path / "renamed.pth", known)
    assert difference is not None and f"expected 200 bytes with {known.sha256[:12]}" in difference
    for official in OFFICIAL.values():
        assert by_digest(official.sha256) is official
        assert official.model_size in ENCODERS


def test_warn_if_damaged_warns_only_of_damage(known: OfficialCheckpoint, tmp_path: Path) -> None:
    file, table = tmp_path / "vit_x.pth", {"vit_x": known}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_damaged(file, table)
        (tmp_path / "other.pth").write_bytes(bytes(200))
        warn_if_damaged(tmp_path / "other.pth", table)
        file.write_bytes(bytes(201))
        warn_if_damaged(file, table)
    file.write_bytes(bytes(200))
    with pytest.warns(UserWarning, match=r"vit_x\.pth: not the official vit_x: got 200 bytes"):
        warn_if_damaged(file, table)


def test_errors_of_an_intact_official_file_are_unchanged(
    known: OfficialCheckpoint, tmp_path: Path
) -> None:
    for file in (tmp_path / "vit_x.pth", tmp_path / "missing" / "vit_x.pth"):
        with (
            pytest.raises(ArtifactError, match="^as it was$"),
            named_if_official(file, {"vit_x": known}),
        ):
            raise ArtifactError("as it was")


def test_run_on_custom_base_records_no_official_name(tmp_path: Path) -> None:
    save_base(noisy_sam(), tmp_path / "base")
    model = load_base(tmp_path / "base").requires_grad_(False)
    model.sam.mask_decoder.iou_token.requires_grad_(True)
    save_run(model, tmp_path / "run", base=tmp_path / "base", lora=LoraConfig(rank=0))
    assert read_manifest(tmp_path / "run").config["base"].keys() == {"path", "sha256"}
