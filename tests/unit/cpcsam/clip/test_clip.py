"""CLIP: towers, tokenizer and preprocessing against open_clip's own; classes by text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import tokenize
from open_clip.transform import image_transform
from PIL import Image

from cpcsam.automatic.vocabulary import Vocabulary, empty_vocabulary
from cpcsam.automatic.vocabulary_io import load_vocabulary, save_vocabulary
from cpcsam.clip.preprocess import Preprocess
from cpcsam.clip.text_classes import (
    NEGATIVES,
    TEMPLATES,
    TextClass,
    TextClasses,
    phrases_of,
    pool_phrases,
)
from cpcsam.clip.tokenizer import VOCABULARY_SIZE
from cpcsam.clip.towers import ClipTowers, published_preprocessing
from cpcsam.errors import ArtifactError, ConfigError, ContractError
from cpcsam.geometry import Box
from tests.support.tiny_clip import write_tiny_clip

WIDTH = 6
CLASSES = (
    TextClass("a", ("a", "another a"), ("not a",)),
    TextClass("b", ("b",)),
    TextClass("c", ("c",), ("not c", "nor this")),
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def towers(clip: tuple[str, Path]) -> ClipTowers:
    return ClipTowers.load(*clip)


def images(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="ascii", exclude_characters="<>&\x1b"), max_size=40))
def test_tokenizer_of_ascii_equals_open_clips(towers: ClipTowers, text: str) -> None:
    assert np.array_equal(towers.tokenizer([text]), tokenize(text).numpy())


def test_tokenizer_of_other_text_equals_open_clips(towers: ClipTowers) -> None:
    texts = ["naïve Ядро 細胞 🙂 12µm²", "it’s &amp; &lt;we'll&gt;", "word " * 100, ""]
    texts += [
        "ﬁbroblast ﬂuﬀy",
        "ＣＥＬＬ　５ ｶﾞﾝ",
        "cell\u02bcs it&rsquo;s",
        "\ufeffa\u2028b\u206ac",
        "a < &lsquo;",
    ]
    assert np.array_equal(towers.tokenizer(texts), tokenize(texts).numpy())


def test_tokenizer_of_all_replaced_characters_equals_open_clips(towers: ClipTowers) -> None:
    codes = [*range(0x20), *range(0xA0, 0x345), *range(0x2000, 0x2070), *range(0xFB00, 0xFB07)]
    codes += [0x3000, 0xFEFF, *range(0xFF00, 0xFFFE)]
    texts = [f"ab{chr(code)}cd" for code in codes]
    assert np.array_equal(towers.tokenizer(texts), tokenize(texts).numpy())


def test_tokenizer_takes_the_names_of_special_tokens_for_text(towers: ClipTowers) -> None:
    (written,) = towers.tokenizer(["<end_of_text> cell"])
    assert (written == VOCABULARY_SIZE - 1).sum() == 1 and written[1] != VOCABULARY_SIZE - 1


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocess_equals_open_clips(mode: str, interpolation: str) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    transform = image_transform(32, False, mean, std, mode, interpolation)
    preprocess = Preprocess(32, mean, std, interpolation, mode)
    shown = images((40, 71), (33, 32), (200, 55), (5, 9))
    expected = np.stack([transform(Image.fromarray(image)).numpy() for image in shown])
    assert np.array_equal(preprocess(shown), expected)


def test_embeddings_equal_the_models(towers: ClipTowers, clip: tuple[str, Path]) -> None:
    texts, shown = ["nucleus", "a photo of a cell"], images((40, 70), (20, 20), (9, 30))
    model = open_clip.CLIP(**{k: towers.config[k] for k in ("embed_dim", "vision_cfg", "text_cfg")})
    model.load_state_dict(torch.load(clip[1], weights_only=True))
    with torch.inference_mode():
        of_texts = model.eval().encode_text(tokenize(texts), normalize=True).numpy()
        of_images = model.encode_image(torch.tensor(towers.preprocess(shown)), normalize=True)
    assert np.allclose(towers.embed_texts(texts), of_texts, atol=1e-6)
    assert np.allclose(towers.embed_images(shown), of_images.numpy(), atol=1e-6)
    assert towers.embed_images([]).shape == (0, 16)
    assert towers.logit_scale == pytest.approx(1 / 0.07)


def test_dense_patches_are_of_unit_length_and_follow_the_image(towers: ClipTowers) -> None:
    image = images((64, 64))[0]
    patches = towers.dense(image)
    assert patches.shape == (4, 4, 16)
    assert np.allclose(np.linalg.norm(patches, axis=-1), 1, atol=1e-5)
    image[:32] = 0
    assert np.abs(towers.dense(image)[0] - patches[0]).max() > 0.1


def test_digest_follows_the_weights(towers: ClipTowers, clip: tuple[str, Path]) -> None:
    assert ClipTowers.load(*clip).digest == towers.digest
    other = ClipTowers.load(*write_tiny_clip(clip[1].parent, seed=1))
    assert other.digest != towers.digest


def test_load_takes_the_preprocessing_that_belongs_to_the_weights(
    towers: ClipTowers, clip: tuple[str, Path], tmp_path: Path
) -> None:
    own = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1], "interpolation": "bilinear"}
    published = tmp_path / "open_clip_config.json"
    config = json.loads(Path(clip[0]).read_text())
    published.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": own}))
    other = ClipTowers.load(str(published), clip[1])
    expected = Preprocess(32, (0.5, 0.4, 0.3), (0.3, 0.2, 0.1), "bilinear", "shortest")
    assert other.preprocess == expected and other.digest != towers.digest
    published.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 8}}))
    assert ClipTowers.load(str(published), clip[1]).preprocess == towers.preprocess
    mobile = published_preprocessing("MobileCLIP-S1")
    assert mobile["mean"] == (0, 0, 0) and mobile["interpolation"] == "bilinear"
    assert published_preprocessing("ViT-H-14-378")["resize_mode"] == "squash"
    assert "mean" not in published_preprocessing("ViT-L-14")  # its weights differ


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"model_cfg": 1}'])
def test_load_refuses_json_without_a_configuration(
    clip: tuple[str, Path], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ViT-B-32.json"  # also a name of open_clip's own
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"CLIP: got .*ViT-B-32.json"):
        ClipTowers.load(str(file), clip[1])


def test_load_refuses_names_that_are_downloaded(clip: tuple[str, Path]) -> None:
    for name in ("hf-hub:timm/ViT-B-16-SigLIP", "local-dir:weights"):
        with pytest.raises(ConfigError, match=f"CLIP: got {name}"):
            ClipTowers.load(name, clip[1])


def test_load_refuses_by_name(clip: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CLIP: got No-Such"):
        ClipTowers.load("No-Such", clip[1])
    with pytest.raises(ConfigError, match="got ViT-B-16-SigLIP with the tokenizer"):
        ClipTowers.load("ViT-B-16-SigLIP", clip[1])
    with pytest.raises(ArtifactError, match="no such file"):
        ClipTowers.load(clip[0], tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"weights")
    with pytest.raises(ArtifactError, match="a file that is refused"):
        ClipTowers.load(clip[0], tmp_path / "bad.pt")


def unit(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def three_classes(scale: float = 5.0) -> TextClasses:
    known = TextClasses.empty("t" * 64, scale, WIDTH)
    for seed, new in enumerate(CLASSES):
        known = known.add(new, unit(len(new.all_texts), seed))
    return known


def test_probability_competes_with_classes_and_with_own_negatives() -> None:
    known, crops = three_classes(), unit(4, seed=9)
    a, b, c = (unit(len(one.all_texts), seed) for seed, one in enumerate(CLASSES))
    own = [np.exp(5 * (crops @ rows.T).max(1)) for rows in (a[:2], b[:1], c[:1])]
    others = [np.exp(5 * crops @ rows.T).sum(1) for rows in (a[2:], b[1:], c[1:])]
    expected = [mine / (sum(own) + against) for mine, against in zip(own, others, strict=True)]
    assert CLASSES[1].all_texts == ("b", *NEGATIVES)
    assert np.allclose(known.probabilities(crops), np.stack(expected, 1), atol=1e-6)
    assert known.probabilities(crops[:0]).shape == (0, 3)


def test_without_removes_a_class_and_its_negatives_alone() -> None:
    known = three_classes().without("b")
    expected = TextClasses.empty("t" * 64, 5.0, WIDTH)
    for seed in (0, 2):
        new = CLASSES[seed]
        expected = expected.add(new, unit(len(new.all_texts), seed))
    assert known.classes == expected.classes and np.array_equal(known.owners, expected.owners)
    assert np.array_equal(known.embeddings, expected.embeddings)
    assert known.without("none") is known


def test_add_refuses_a_known_name_and_other_embeddings() -> None:
    with pytest.raises(ConfigError, match="'a', which is known"):
        three_classes().add(CLASSES[0], unit(3, 0))
    with pytest.raises(ContractError, match=r"got shape \(2, 6\), expected \(3, 6\)"):
        three_classes().add(TextClass("d", ("d",)), unit(2, 0))


def test_phrases_are_pooled_by_text() -> None:
    assert phrases_of(["x", "y"])[: len(TEMPLATES)] == [each.format("x") for each in TEMPLATES]
    rows = unit(2 * len(TEMPLATES), 0)
    pooled = pool_phrases(rows)
    mean = rows[len(TEMPLATES) :].mean(0)
    assert np.allclose(pooled[1], mean / np.linalg.norm(mean), atol=1e-6)


def test_vocabulary_keeps_texts_on_disk_and_loses_them_with_their_class(tmp_path: Path) -> None:
    vocabulary = replace(empty_vocabulary("m" * 64), texts=three_classes())
    save_vocabulary(vocabulary, tmp_path / "kept")
    kept = load_vocabulary(tmp_path / "kept", "m" * 64)
    assert kept.all_names == ("a", "b", "c") and kept.texts is not None
    assert kept.texts.classes == CLASSES and kept.texts.towers == "t" * 64
    for name in ("embeddings", "owners"):
        assert np.array_equal(getattr(kept.texts, name), getattr(three_classes(), name))
    assert kept.texts.logit_scale == 5.0
    left: Vocabulary = kept.without("a")
    assert left.all_names == ("b", "c")
    with pytest.raises(ConfigError, match="expected one of b, c"):
        left.without("a")


def test_crop_is_the_square_around_a_box_with_its_background() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    preprocess = Preprocess(8, (0.5, 0.25, 0.0), (1, 1, 1))
    assert np.array_equal(preprocess.crop(image, Box(5, 10, 9, 18)), image[3:11, 10:18])
    beyond = preprocess.crop(image, Box(0, 0, 4, 8))
    assert np.array_equal(beyond[2:], image[:6, :8]) and (beyond[:2] == (128, 64, 0)).all()
    long = np.full((2, 60_000, 3), 200, np.uint8)  # its square would take 10 GB
    thin = preprocess.crop(long, Box(0, 0, 2, 60_000))
    assert (thin[4] == 200).all() and (np.delete(thin, 4, axis=0) == (128, 64, 0)).all()
