"""Plan of a switch to another version, and the golden answers that it compares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpcsam.artifacts.golden import GOLDEN_NAME, GoldenCase, read_golden, require_same, write_golden
from cpcsam.artifacts.manifest import publish
from cpcsam.artifacts.versions import switch_to, writing
from cpcsam.automatic.vocabulary import empty_vocabulary
from cpcsam.automatic.vocabulary_io import save_vocabulary
from cpcsam.clip.text_classes import TextClass, TextClasses
from cpcsam.errors import ArtifactError, ServingError
from serving.triton import switching
from serving.triton.switching import VersionLink, check_switch, origins_of_classes


def make_version(path: Path, model: str = "", parent: str = "graphs", clip: str = "") -> Path:
    config = {"target": "cpu", "trained_model": model, **({"clip": clip} if clip else {})}
    with publish(path, "repository", parents={"onnx": parent}, config=config) as staging:
        (staging / "graph.onnx").write_text("graph")
    return path


def make_classes(path: Path, model: str, *names: str, towers: str = "", texts: str = "") -> Path:
    vocabulary = replace(empty_vocabulary(model), names=names)
    if towers:
        known = TextClasses.empty(towers, 1.0, 2)
        for text in texts.split():
            known = known.add(TextClass(text, (text,)), np.ones((3, 2), np.float32))
        vocabulary = replace(vocabulary, texts=known)
    save_vocabulary(vocabulary, path)
    return path


def test_link_tells_each_switch_once_even_to_the_same_version(tmp_path: Path) -> None:
    single = make_version(tmp_path / "single")
    assert not VersionLink(single).has_moved() and VersionLink(single).resolve() == single
    for number in (1, 2):
        make_version(tmp_path / f"store/{number}")
    switch_to(tmp_path / "store", 1)
    link = VersionLink(tmp_path / "store")
    assert not link.has_moved()
    for number in (2, 2, 1):
        with writing(tmp_path / "store"):
            switch_to(tmp_path / "store", number)
        assert link.has_moved()
        assert link.resolve() == tmp_path / f"store/{number}"
        assert not link.has_moved()


def test_switch_to_an_altered_version_is_refused(tmp_path: Path) -> None:
    old, new = make_version(tmp_path / "1"), make_version(tmp_path / "2")
    check_switch(old, new, {})
    (new / "graph.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"graph\.onnx: got no such file"):
        check_switch(old, new, {})


def test_switch_that_would_make_classes_unusable_is_refused(tmp_path: Path) -> None:
    make_classes(tmp_path / "classes/lab/1", "one", "disc")
    switch_to(tmp_path / "classes/lab", 1)
    (tmp_path / "classes/empty").mkdir()
    initial = make_classes(tmp_path / "initial", "graphs", "disc")
    classes = origins_of_classes(tmp_path / "classes", initial)
    assert classes == {"lab": ("one", ""), "--vocabulary": ("graphs", "")}
    one, again = make_version(tmp_path / "1", "one"), make_version(tmp_path / "2", "one", "other")
    check_switch(one, again, classes)
    other, own = make_version(tmp_path / "3", "two"), make_version(tmp_path / "4")
    with pytest.raises(ServingError, match="the classes of lab could not be used"):
        check_switch(one, other, classes)
    with pytest.raises(ServingError, match="the classes of --vocabulary could not be used"):
        check_switch(own, other, classes)
    check_switch(other, one, classes)
    assert origins_of_classes(None, None) == origins_of_classes(tmp_path / "none", None) == {}


def test_switch_is_free_once_the_last_class_is_removed(tmp_path: Path) -> None:
    for tenant, towers in (("lab", ""), ("ward", "a")):
        make_classes(tmp_path / "classes" / tenant / "1", "one", towers=towers)
        switch_to(tmp_path / "classes" / tenant, 1)
    classes = origins_of_classes(tmp_path / "classes", make_classes(tmp_path / "initial", "one"))
    assert classes == {}
    check_switch(make_version(tmp_path / "1", "one"), make_version(tmp_path / "2", "two"), classes)


def test_switch_to_other_towers_than_those_of_classes_by_text_is_refused(tmp_path: Path) -> None:
    make_classes(tmp_path / "classes/lab/1", "one", towers="a", texts="nucleus")
    # Its classes by text are gone.
    make_classes(tmp_path / "classes/removed/1", "one", "disc", towers="a")
    for tenant in ("lab", "removed"):
        switch_to(tmp_path / "classes" / tenant, 1)
    classes = origins_of_classes(tmp_path / "classes", None)
    assert classes == {"lab": ("one", "a"), "removed": ("one", "")}
    old, same = (make_version(tmp_path / name, "one", clip="a") for name in ("1", "2"))
    check_switch(old, same, classes)
    other, none = make_version(tmp_path / "3", "one", clip="b"), make_version(tmp_path / "4", "one")
    for wanted, towers in ((other, "b"), (none, "none")):
        message = (
            f"got CLIP {towers}, for which the classes of lab could not be used, expected CLIP a"
        )
        with pytest.raises(ServingError, match=message):
            check_switch(old, wanted, classes)
        check_switch(old, wanted, {"removed": classes["removed"]})
    check_switch(none, old, classes)


def test_switch_beyond_the_free_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_version(tmp_path / "1"), make_version(tmp_path / "2")
    monkeypatch.setattr(switching, "MEMORY", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:  1 kB\n")
    check_switch(old, new, {})
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:  0 kB\n")
    with pytest.raises(ServingError, match="memory that is left beside the old version"):
        check_switch(old, new, {})


def case(seed: int = 0) -> GoldenCase:
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return GoldenCase(
        image_bytes=rng.integers(0, 256, 50, np.uint8),
        point_coords=drawn(4, 1, 2),
        point_labels=np.ones((4, 1), np.int32),
        low_res_masks=drawn(4, 8, 8),
        scores=drawn(4),
        refined_masks=drawn(4, 8, 8),
        refined_scores=drawn(4),
    )


def test_golden_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_golden(tmp_path) is None
    write_golden(tmp_path / GOLDEN_NAME, [case(1), case(2)], 1e-3)
    golden = read_golden(tmp_path)
    assert golden is not None and golden[1] == 1e-3
    for written, read in zip([case(1), case(2)], golden[0], strict=True):
        require_same(written, vars(read), 0.0, "image")
        assert written.image_bytes.tobytes() == read.image_bytes.tobytes()
    (tmp_path / GOLDEN_NAME).write_bytes(b"PK broken")
    with pytest.raises(ArtifactError, match=r"golden\.npz: got an unreadable file"):
        read_golden(tmp_path)


@pytest.mark.parametrize("wrong", [1.01, np.nan])
def test_golden_answers_differ_beyond_the_tolerance(wrong: float) -> None:
    golden = case()
    close = replace(golden, low_res_masks=golden.low_res_masks * np.float32(1.0005))
    require_same(golden, vars(close), 1e-3, "image 0")
    far = replace(golden, refined_masks=golden.refined_masks * np.float32(wrong))
    with pytest.raises(ServingError, match="golden answers, image 0, refined_masks: got"):
        require_same(golden, vars(far), 1e-3, "image 0")
    with pytest.raises(ServingError, match="scores: got a relative difference of inf"):
        require_same(golden, vars(replace(golden, scores=golden.scores[:2])), 1e-3, "image 0")
