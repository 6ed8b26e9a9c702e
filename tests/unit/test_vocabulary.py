from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cpcsam.contract import PATCH_SIZE
from cpcsam.errors import ArtifactError, ConfigError, ContractError
from cpcsam.proposals import components, peaks, prompts_from_similarity
from cpcsam.prototypes import cluster, fit_logistic, sigmoid, whitening
from cpcsam.vocabulary import (
    BACKGROUND,
    Examples,
    Vocabulary,
    VocabularyConfig,
    build_vocabulary,
)
from cpcsam.vocabulary_file import load_vocabulary, save_vocabulary

WIDTH = 12
GRID = 8
MODEL = "a" * 64
ROOT = Path(__file__).parents[2]


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


def test_maps_show_where_each_class_is() -> None:
    unseen = world((0, 1), seed=9)
    maps = two_classes().similarity_maps(unseen.image_embeddings)
    assert maps.shape == (3, 2, GRID, GRID) and maps.dtype == np.float32
    for index in range(2):
        inside = of_class(unseen, index)
        assert maps[:, index][inside].mean() > 0.85
        assert maps[:, index][~inside].mean() < 0.05
        assert (maps[:, index][inside] > 0.5).all()


def test_maps_of_one_image_are_those_of_the_batch() -> None:
    embeddings = world((0, 1), seed=4).image_embeddings
    vocabulary = two_classes()
    batch = vocabulary.similarity_maps(embeddings)
    np.testing.assert_allclose(vocabulary.similarity_maps(embeddings[1]), batch[1], atol=1e-6)


def test_maps_refuse_another_width() -> None:
    with pytest.raises(ContractError, match=r"image_embeddings: got shape \(5, 8, 8\)"):
        two_classes().similarity_maps(np.zeros((5, 8, 8), np.float32))


def test_building_is_deterministic_and_ignores_padding() -> None:
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


def test_a_class_is_added_from_one_image_without_training() -> None:
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


def test_an_old_class_in_the_new_examples_is_not_made_background() -> None:
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


def test_a_known_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="'ring', which is known"):
        two_classes().extend("ring", world((2,)))


def test_a_class_needs_an_entity_and_a_vocabulary_background() -> None:
    with pytest.raises(ContractError, match="class ring: got no entity"):
        build_vocabulary(("disc", "ring"), world((0,)), model=MODEL)
    covered = world((0,))
    covered.entities[:] = 1
    with pytest.raises(ContractError, match="no background"):
        build_vocabulary(("disc",), covered, model=MODEL)


@pytest.mark.parametrize(
    "fields", [{"prototypes": 0}, {"background": 0}, {"shrinkage": 0.0}, {"sharpness": 0.0}]
)
def test_settings_without_a_meaning_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        VocabularyConfig(**fields)  # type: ignore[arg-type]


def test_a_saved_vocabulary_is_the_same(tmp_path: Path) -> None:
    saved = two_classes()
    save_vocabulary(saved, tmp_path / "v", config={"support": ["one"]})
    loaded = load_vocabulary(tmp_path / "v", MODEL)
    assert (loaded.names, loaded.tile, loaded.config) == (saved.names, 64, saved.config)
    embeddings = world((0, 1), seed=2).image_embeddings
    np.testing.assert_array_equal(
        loaded.similarity_maps(embeddings), saved.similarity_maps(embeddings)
    )


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    save_vocabulary(two_classes(), tmp_path / "v")
    with pytest.raises(ArtifactError, match=f"model {MODEL[:12]}.*model {'b' * 12}"):
        load_vocabulary(tmp_path / "v", "b" * 64)


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    save_vocabulary(two_classes(), tmp_path / "v")
    with (tmp_path / "v/vocabulary.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="altered"):
        load_vocabulary(tmp_path / "v")


def test_needs_neither_torch_nor_scipy() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'scipy', 'skimage', 'safetensors'): sys.modules[name] = None\n"
        "import cpcsam.vocabulary, cpcsam.vocabulary_file, cpcsam.automatic\n"
        "import cpcsam.proposals, cpcsam.merging\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


vectors = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).normal(size=(seed % 40 + 1, 5)).astype(np.float32)
)


@given(vectors, st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_clusters_are_few_unit_vectors_and_repeatable(raw: np.ndarray, count: int) -> None:
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    centres = cluster(unit, count)
    assert 1 <= len(centres) <= min(count, len(unit))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(centres, cluster(unit, count))


def test_clusters_find_the_groups() -> None:
    rng = np.random.default_rng(0)
    axes = np.eye(5, dtype=np.float32)[:3]
    raw = np.repeat(axes, 20, axis=0) + rng.normal(0, 0.05, (60, 5))
    unit = np.float32(raw / np.linalg.norm(raw, axis=1, keepdims=True))
    assert ((cluster(unit, 3) @ axes.T).max(0) > 0.99).all()


def test_whitening_evens_out_how_groups_vary() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([5.0, 1.0, 0.2])
    groups = [np.float32(rng.normal(mean, spread, (4000, 3))) for mean in (0, 10)]
    whitened = (groups[0] @ whitening(groups, 1e-6)).std(0)
    np.testing.assert_allclose(whitened, 1, rtol=0.05)
    kept = whitening(groups, 1.0)
    np.testing.assert_allclose(kept, kept[0, 0] * np.eye(3), atol=1e-6)


def test_the_logistic_curve_is_recovered() -> None:
    margins = np.random.default_rng(0).normal(0, 3, 20_000)
    slope, intercept = fit_logistic(margins, sigmoid(1.5 * margins - 2))
    assert slope == pytest.approx(1.5, rel=0.02)
    assert intercept == pytest.approx(-2, rel=0.02)


def test_the_curve_never_falls() -> None:
    margins = np.linspace(-1, 1, 50)
    assert fit_logistic(margins, margins < 0)[0] == 0


maps = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000)).map(
    lambda spec: (np.random.default_rng(spec[2]).integers(0, 6, spec[:2]) / 5).astype(np.float32)
)


@given(maps)
@settings(max_examples=80, deadline=None)
def test_components_are_scipys(probability: np.ndarray) -> None:
    mask = probability >= 0.5
    labels = components(mask)
    expected, count = ndimage.label(mask)
    assert labels.max(initial=0) == count
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(labels))


@given(maps)
@settings(max_examples=80, deadline=None)
def test_peaks_are_highest_and_every_component_has_one(probability: np.ndarray) -> None:
    found = peaks(probability, 0.5)
    highest = ndimage.maximum_filter(probability, 3, mode="constant", cval=-1)
    for row, column in found:
        assert probability[row, column] == highest[row, column] >= 0.5
    labels, count = ndimage.label(probability >= 0.5, np.ones((3, 3)))
    assert set(labels[tuple(found.T)].tolist()) == set(range(1, count + 1))


@given(maps, st.booleans())
@settings(max_examples=60, deadline=None)
def test_prompts_are_in_the_cells_they_stand_for(probability: np.ndarray, dense: bool) -> None:
    prompts = prompts_from_similarity(probability[None], 0.5, dense=dense)
    height, width = probability.shape
    clicks = prompts.point_labels[:, 0] == 1
    for (x, y), similarity in zip(
        prompts.point_coords[clicks, 0], prompts.similarity[clicks], strict=True
    ):
        assert -1 <= x <= width * PATCH_SIZE and -1 <= y <= height * PATCH_SIZE
        rows, columns = (
            sorted(
                {
                    int(np.clip((value + 0.5 + step) // PATCH_SIZE, 0, side - 1))
                    for step in (-0.01, 0.01)
                }
            )
            for value, side in ((y, height), (x, width))
        )
        assert similarity in probability[np.ix_(rows, columns)]
    boxes = prompts.point_coords[~clicks]
    assert len(boxes) == components(probability >= 0.5).max(initial=0)
    assert (boxes[:, 1] > boxes[:, 0]).all()


def test_a_click_moves_towards_the_higher_neighbour() -> None:
    probability = np.zeros((1, 5, 5), np.float32)
    probability[0, 2, 1:4] = 0.2, 0.9, 0.7
    ((click, empty),) = prompts_from_similarity(probability, 0.8, boxes=False).point_coords
    centre = 2.5 * PATCH_SIZE - 0.5
    assert centre < click[0] <= centre + PATCH_SIZE / 2
    assert click[1] == centre
    assert (empty == 0).all()


def test_each_class_has_prompts_of_its_own() -> None:
    probability = np.zeros((2, 4, 4), np.float32)
    probability[0, 0, 0] = probability[1, 3, 3] = 1
    prompts = prompts_from_similarity(probability, 0.5)
    assert prompts.class_indices.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(prompts.point_coords[3], [[48, 48], [64, 64]])


def test_nothing_is_prompted_where_nothing_is_similar() -> None:
    prompts = prompts_from_similarity(np.zeros((3, 4, 4), np.float32), 0.5)
    assert len(prompts) == 0 and prompts.point_coords.shape == (0, 2, 2)
    assert (two_classes().owners == BACKGROUND).any()


def assert_equal(one: Vocabulary, other: Vocabulary) -> None:
    assert (one.names, one.tile, one.config) == (other.names, other.tile, other.config)
    for name in ("mean", "metric", "prototypes", "owners", "calibration"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_removing_a_class_undoes_adding_it() -> None:
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


def test_a_class_of_the_first_ones_is_removed_too() -> None:
    left = two_classes().without("disc")
    assert left.names == ("ring",) and set(left.owners) == {0, BACKGROUND}
    unseen = world((0, 1), seed=9)
    maps = left.similarity_maps(unseen.image_embeddings)
    assert (maps[:, 0][of_class(unseen, 1)] > 0.5).all()
    with pytest.raises(ConfigError, match="'disc', which is not known, expected one of ring"):
        left.without("disc")


def test_a_vocabulary_without_classes_knows_nothing_and_learns_again() -> None:
    empty = two_classes().without("disc").without("ring")
    unseen = world((0, 1), seed=9)
    assert empty.similarity_maps(unseen.image_embeddings).shape == (3, 0, GRID, GRID)
    again = empty.extend("disc", world((0,), seed=3))
    maps = again.similarity_maps(unseen.image_embeddings)
    assert maps[:, 0][of_class(unseen, 0)].mean() > 0.8
