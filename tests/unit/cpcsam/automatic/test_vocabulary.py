"""Vocabularies: built, extended, kept and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcsam.automatic.prototypes import cluster, fit_logistic, sigmoid, whitening
from cpcsam.automatic.support_set import Examples
from cpcsam.automatic.vocabulary import (
    BACKGROUND,
    Vocabulary,
    VocabularyConfig,
    build_vocabulary,
    empty_vocabulary,
)
from cpcsam.automatic.vocabulary_io import load_vocabulary, save_vocabulary
from cpcsam.clip.text_classes import TextClasses
from cpcsam.errors import ArtifactError, ConfigError, ContractError

WIDTH = 12
GRID = 8
MODEL = "a" * 64


def world(classes: tuple[int, ...], seed: int = 0, images: int = 3) -> Examples:
    """Images of noisy cells in which each class is a direction of its own, 2 x 2 cells large."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(0, 0.3, (images, WIDTH, GRID, GRID)).astype(np.float32)
    embeddings[:, 0] += 2
    entities, owners, kinds = [], [], []
    for image in range(images):
        for kind in classes:
            row, column = 4 * (kind // 2), 4 * (kind % 2) + int(rng.integers(2))
            covered = np.zeros((GRID, GRID), np.float32)
            covered[row : row + 2, column : column + 2] = 1
            embeddings[image, 1 + kind] += 3 * covered
            entities.append(covered)
            owners.append(image)
            kinds.append(classes.index(kind))
    return Examples(
        embeddings,
        np.stack(entities),
        np.array(owners, np.int64),
        np.array(kinds, np.int64),
        np.ones((images, GRID, GRID), bool),
    )


def of_class(examples: Examples, index: int) -> np.ndarray:
    return examples.coverage(index).reshape(-1, GRID, GRID) > 0


def two_classes() -> Vocabulary:
    return build_vocabulary(("disc", "ring"), world((0, 1)), model=MODEL, tile=64)


def test_similarity_maps_locate_each_class() -> None:
    unseen = world((0, 1), seed=9)
    maps = two_classes().similarity_maps(unseen.image_embeddings)
    assert maps.shape == (3, 2, GRID, GRID) and maps.dtype == np.float32
    for index in range(2):
        inside = of_class(unseen, index)
        assert maps[:, index][inside].mean() > 0.85
        assert maps[:, index][~inside].mean() < 0.05
        assert (maps[:, index][inside] > 0.5).all()


def test_similarity_maps_of_one_image_equal_the_batch() -> None:
    embeddings = world((0, 1), seed=4).image_embeddings
    vocabulary = two_classes()
    batch = vocabulary.similarity_maps(embeddings)
    np.testing.assert_allclose(vocabulary.similarity_maps(embeddings[1]), batch[1], atol=1e-6)


def test_build_vocabulary_has_background_prototypes() -> None:
    assert (two_classes().owners == BACKGROUND).any()


def test_similarity_maps_other_width_raises_contract_error() -> None:
    with pytest.raises(ContractError, match=r"image_embeddings: got shape \(5, 8, 8\)"):
        two_classes().similarity_maps(np.zeros((5, 8, 8), np.float32))


def test_build_vocabulary_is_deterministic_and_ignores_padding() -> None:
    examples = world((0, 1))
    padded = replace(examples, valid=examples.valid.copy())
    padded.valid[:, :, -1] = False
    spoiled = padded.image_embeddings.copy()
    spoiled[..., -1] = 1e3
    first = build_vocabulary(("disc", "ring"), padded, model=MODEL)
    again = build_vocabulary(
        ("disc", "ring"), replace(padded, image_embeddings=spoiled), model=MODEL
    )
    for name in ("mean", "metric", "prototypes", "calibration"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_extend_adds_a_class_from_one_image() -> None:
    known = two_classes()
    extended = known.extend("square", world((2,), seed=5, images=1))
    assert extended.names == ("disc", "ring", "square")
    assert known.names == ("disc", "ring")
    unseen = world((0, 1, 2), seed=7)
    maps = extended.similarity_maps(unseen.image_embeddings)
    for index in range(3):
        inside = of_class(unseen, index)
        assert maps[:, index][inside].mean() > 0.8
        assert maps[:, index][~inside].mean() < 0.1
    np.testing.assert_array_equal(extended.calibration[:2], known.calibration)


def test_extend_builds_the_first_class_by_examples() -> None:
    disc, texts = world((0,)), TextClasses.empty("t" * 64, 1.0, 2)
    built = build_vocabulary(("disc",), disc, model=MODEL, tile=64)
    without = two_classes().without("disc").without("ring")
    for empty in (without, replace(empty_vocabulary(MODEL), tile=64)):
        extended = replace(empty, texts=texts).extend("disc", disc)
        assert_equal(extended, built)
        assert extended.texts is texts and extended.model == MODEL
        with pytest.raises(ContractError, match="no background"):
            empty.extend("disc", replace(disc, entities=np.ones_like(disc.entities)))


def test_extend_keeps_known_classes_out_of_the_background() -> None:
    known = two_classes()
    both = world((2, 0), seed=6, images=2)
    alone = replace(
        both,
        entities=both.entities[both.classes == 0],
        images=both.images[both.classes == 0],
        classes=both.classes[both.classes == 0],
    )
    extended = known.extend("square", alone)
    maps = extended.similarity_maps(both.image_embeddings)
    assert maps[:, 0][of_class(both, 1)].min() > 0.5


def test_background_learnt_with_a_class_counts_against_no_earlier_class() -> None:
    square = two_classes().extend("square", world((2,), seed=5, images=1))
    both = square.extend("cross", world((3,), seed=6, images=1))
    unseen = world((0, 1, 2, 3), seed=7).image_embeddings
    for known, background in ((both, BACKGROUND - 4), (both.without("disc"), BACKGROUND - 3)):
        kept = known.owners != background
        assert not kept.all()
        without = replace(known, prototypes=known.prototypes[kept], owners=known.owners[kept])
        maps, others = known.similarity_maps(unseen), without.similarity_maps(unseen)
        np.testing.assert_allclose(maps[:, :-1], others[:, :-1], atol=1e-5)
        assert (maps[:, -1] != others[:, -1]).any()


def test_extend_known_name_raises_config_error() -> None:
    with pytest.raises(ConfigError, match="'ring', which is known"):
        two_classes().extend("ring", world((2,)))


def test_build_vocabulary_without_entity_or_background_raises() -> None:
    with pytest.raises(ContractError, match="class ring: got no entity"):
        build_vocabulary(("disc", "ring"), world((0,)), model=MODEL)
    covered = world((0,))
    covered.entities[:] = 1
    with pytest.raises(ContractError, match="no background"):
        build_vocabulary(("disc",), covered, model=MODEL)


@pytest.mark.parametrize(
    "fields", [{"prototypes": 0}, {"background": 0}, {"shrinkage": 0.0}, {"sharpness": 0.0}]
)
def test_vocabulary_config_out_of_range_raises_config_error(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        VocabularyConfig(**fields)  # type: ignore[arg-type]


def test_vocabulary_save_and_load_round_trip(tmp_path: Path) -> None:
    saved = two_classes()
    save_vocabulary(saved, tmp_path / "v", config={"support": ["one"]})
    loaded = load_vocabulary(tmp_path / "v", MODEL)
    assert (loaded.names, loaded.tile, loaded.config) == (saved.names, 64, saved.config)
    embeddings = world((0, 1), seed=2).image_embeddings
    np.testing.assert_array_equal(
        loaded.similarity_maps(embeddings), saved.similarity_maps(embeddings)
    )


def test_load_vocabulary_of_another_model_raises(tmp_path: Path) -> None:
    save_vocabulary(two_classes(), tmp_path / "v")
    with pytest.raises(ArtifactError, match=f"model {MODEL[:12]}.*model {'b' * 12}"):
        load_vocabulary(tmp_path / "v", "b" * 64)


def test_load_vocabulary_altered_file_raises(tmp_path: Path) -> None:
    save_vocabulary(two_classes(), tmp_path / "v")
    with (tmp_path / "v/vocabulary.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="altered"):
        load_vocabulary(tmp_path / "v")


def assert_equal(one: Vocabulary, other: Vocabulary) -> None:
    assert (one.names, one.tile, one.config) == (other.names, other.tile, other.config)
    for name in ("mean", "metric", "prototypes", "owners", "calibration"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_without_is_the_inverse_of_extend() -> None:
    known = two_classes()
    square = known.extend("square", world((2,), seed=5, images=1))
    both = square.extend("cross", world((3,), seed=6, images=1))
    assert_equal(square.without("square"), known)
    assert_equal(both.without("cross"), square)
    assert_equal(both.without("cross").without("square"), known)
    left = both.without("square")
    assert left.names == ("disc", "ring", "cross")
    unseen = world((0, 1, 3), seed=7)
    maps = left.similarity_maps(unseen.image_embeddings)
    for index in range(3):
        assert maps[:, index][of_class(unseen, index)].mean() > 0.8
    assert_equal(left.without("cross"), known)


def test_without_removes_an_original_class() -> None:
    left = two_classes().without("disc")
    assert left.names == ("ring",) and set(left.owners) == {0, BACKGROUND}
    unseen = world((0, 1), seed=9)
    maps = left.similarity_maps(unseen.image_embeddings)
    assert (maps[:, 0][of_class(unseen, 1)] > 0.5).all()
    with pytest.raises(ConfigError, match="'disc', which is not known, expected one of ring"):
        left.without("disc")


def test_vocabulary_without_classes_can_be_extended() -> None:
    empty = two_classes().without("disc").without("ring")
    unseen = world((0, 1), seed=9)
    assert empty.similarity_maps(unseen.image_embeddings).shape == (3, 0, GRID, GRID)
    again = empty.extend("disc", world((0,), seed=3))
    maps = again.similarity_maps(unseen.image_embeddings)
    assert maps[:, 0][of_class(unseen, 0)].mean() > 0.8


vectors = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).normal(size=(seed % 40 + 1, 5)).astype(np.float32)
)


@given(vectors, st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_cluster_returns_few_unit_vectors_deterministically(raw: np.ndarray, count: int) -> None:
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    centres = cluster(unit, count)
    assert 1 <= len(centres) <= min(count, len(unit))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(centres, cluster(unit, count))


def test_cluster_separates_groups() -> None:
    rng = np.random.default_rng(0)
    axes = np.eye(5, dtype=np.float32)[:3]
    raw = np.repeat(axes, 20, axis=0) + rng.normal(0, 0.05, (60, 5))
    unit = np.float32(raw / np.linalg.norm(raw, axis=1, keepdims=True))
    assert ((cluster(unit, 3) @ axes.T).max(0) > 0.99).all()


def test_whitening_equalizes_within_group_variance() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([5.0, 1.0, 0.2])
    groups = [np.float32(rng.normal(mean, spread, (4000, 3))) for mean in (0, 10)]
    whitened = (groups[0] @ whitening(groups, 1e-6)).std(0)
    np.testing.assert_allclose(whitened, 1, rtol=0.05)
    kept = whitening(groups, 1.0)
    np.testing.assert_allclose(kept, kept[0, 0] * np.eye(3), atol=1e-6)


def test_fit_logistic_recovers_the_curve() -> None:
    margins = np.random.default_rng(0).normal(0, 3, 20_000)
    slope, intercept = fit_logistic(margins, sigmoid(1.5 * margins - 2))
    assert slope == pytest.approx(1.5, rel=0.02)
    assert intercept == pytest.approx(-2, rel=0.02)


def test_fit_logistic_slope_is_never_negative() -> None:
    margins = np.linspace(-1, 1, 50)
    assert fit_logistic(margins, margins < 0)[0] == 0
