"""Vocabulary store: persistence, isolation of tenants and crash safety."""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cpcsam.artifacts.versions import list_versions, writing
from cpcsam.automatic.support_set import Examples
from cpcsam.automatic.vocabulary import Vocabulary, build_vocabulary
from cpcsam.automatic.vocabulary_io import save_vocabulary
from cpcsam.errors import ConfigError
from cpcsam.grpc_errors import FullError, LimitError, PreconditionError, UnavailableError
from serving.gateway.vocabulary import store as module
from serving.gateway.vocabulary.store import VocabularyStore

MODEL = "a" * 64


def examples(seed: int) -> Examples:
    """Two images; the class is a direction of its own."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(0, 0.3, (2, 6, 4, 4)).astype(np.float32)
    covered = np.zeros((2, 4, 4), np.float32)
    covered[:, :2, :2] = 1
    embeddings[:, seed % 6] += 3 * covered
    owners = np.arange(2)
    return Examples(embeddings, covered, owners, np.zeros(2, np.int64), np.ones((2, 4, 4), bool))


def learn(name: str):  # noqa: ANN201
    def edit(vocabulary: Vocabulary | None) -> Vocabulary:
        if vocabulary is None:
            return build_vocabulary([name], examples(1), model=MODEL)
        return vocabulary.extend(name, examples(len(vocabulary.names) + 1))

    return edit


def forget(name: str):  # noqa: ANN201
    def edit(vocabulary: Vocabulary | None) -> Vocabulary:
        assert vocabulary is not None
        return vocabulary.without(name)

    return edit


async def names(store: VocabularyStore, tenant: str) -> tuple[str, ...]:
    vocabulary = await store.get(tenant, MODEL)
    return () if vocabulary is None else vocabulary.names


async def test_change_persists_and_stays_within_the_tenant(tmp_path: Path) -> None:
    store = VocabularyStore(tmp_path, None)
    assert await names(store, "lab") == ()
    for name in ("disc", "ring"):
        changed = await store.change("lab", MODEL, learn(name))
        assert changed is not None and changed.names[-1] == name
    await store.change("ward", MODEL, learn("bone"))
    again = VocabularyStore(tmp_path, None)
    for reopened in (store, again):
        assert await names(reopened, "lab") == ("disc", "ring")
        assert await names(reopened, "ward") == ("bone",)
        assert await names(reopened, "other") == ()
    await again.change("lab", MODEL, forget("disc"))
    await again.change("lab", MODEL, forget("ring"))
    assert await names(VocabularyStore(tmp_path, None), "lab") == ()
    await again.change("lab", MODEL, learn("new"))
    assert await names(VocabularyStore(tmp_path, None), "lab") == ("new",)
    assert len(list_versions(tmp_path / "lab")) == 1, "older ones are removed"


async def test_classes_are_restored_from_a_copy(tmp_path: Path) -> None:
    folder, archive = tmp_path / "classes", tmp_path / "classes.tar"
    store = VocabularyStore(folder, None)
    await store.change("lab", MODEL, learn("disc"))
    with tarfile.open(archive, "w") as copy:
        copy.add(folder, ".")
    await store.change("lab", MODEL, learn("ring"))
    shutil.rmtree(folder)
    with tarfile.open(archive) as copy:
        copy.extractall(folder, filter="data")
    restored = VocabularyStore(folder, None)
    assert await names(restored, "lab") == ("disc",)
    await restored.change("lab", MODEL, learn("ring"))
    assert await names(VocabularyStore(folder, None), "lab") == ("disc", "ring")


async def test_restored_classes_are_read_although_their_version_has_the_same_number(
    tmp_path: Path,
) -> None:
    running = VocabularyStore(tmp_path, None)
    await running.change("lab", MODEL, learn("disc"))
    shutil.rmtree(tmp_path / "lab")
    await VocabularyStore(tmp_path, None).change("lab", MODEL, learn("ring"))
    assert list(list_versions(tmp_path / "lab")) == [1]
    assert await names(running, "lab") == ("ring",)


async def test_get_without_changes_returns_the_initial_vocabulary(tmp_path: Path) -> None:
    first, folder = tmp_path / "first", tmp_path / "classes"
    save_vocabulary(build_vocabulary(["disc"], examples(0), model=MODEL), first)
    store = VocabularyStore(folder, first)
    await store.change("lab", MODEL, learn("ring"))
    assert await names(store, "lab") == ("disc", "ring")
    assert await names(store, "ward") == ("disc",)
    await store.change("ward", MODEL, forget("disc"))
    assert await names(VocabularyStore(folder, first), "ward") == ()
    assert await names(VocabularyStore(None, first), "lab") == ("disc",)


async def test_change_by_concurrent_callers_applies_all(tmp_path: Path) -> None:
    store = VocabularyStore(tmp_path, None)
    wanted = [f"class {index}" for index in range(5)]
    await asyncio.gather(*(store.change("lab", MODEL, learn(name)) for name in wanted))
    assert sorted(await names(store, "lab")) == wanted


async def test_reads_during_changes_of_another_gateway_succeed_and_keep_one_version(
    tmp_path: Path,
) -> None:
    changing, reading = VocabularyStore(tmp_path, None), VocabularyStore(tmp_path, None)
    await changing.change("lab", MODEL, learn("nucleus"))

    async def change() -> None:
        for _ in range(20):
            await changing.change("lab", MODEL, learn("cell"))
            await changing.change("lab", MODEL, forget("cell"))

    changes, seen = asyncio.create_task(change()), set()
    while not changes.done():
        seen.add(await names(reading, "lab"))
    await changes
    assert seen <= {("nucleus",), ("nucleus", "cell")}
    assert len(reading._loaded) == len(changing._loaded) == 1


async def test_change_with_a_failing_edit_changes_nothing(tmp_path: Path) -> None:
    store = VocabularyStore(tmp_path, None)
    await store.change("lab", MODEL, learn("disc"))
    with pytest.raises(ConfigError, match="is known"):
        await store.change("lab", MODEL, learn("disc"))
    assert await names(store, "lab") == ("disc",)


async def test_change_with_a_crash_before_the_switch_keeps_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VocabularyStore(tmp_path, None)
    await store.change("lab", MODEL, learn("disc"))

    def crash(path: Path, number: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(module, "switch_to", crash)
        with pytest.raises(UnavailableError, match="classes: got an error of the disk"):
            await store.change("lab", MODEL, learn("ring"))
    for reopened in (store, VocabularyStore(tmp_path, None)):
        assert await names(reopened, "lab") == ("disc",)
    await store.change("lab", MODEL, learn("bone"))
    assert await names(VocabularyStore(tmp_path, None), "lab") == ("disc", "bone")


async def test_change_with_a_held_lock_is_refused_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VocabularyStore(tmp_path, None)
    await store.change("lab", MODEL, learn("disc"))
    with writing(tmp_path / "lab"), monkeypatch.context() as hurried:
        hurried.setattr(module, "LOCK_TIMEOUT_S", 0.5)
        waiting = [store.change("lab", MODEL, learn(f"ring {index}")) for index in range(8)]
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, FullError) for outcome in outcomes)
    assert "classes: got other changes that do not end within 0.5 s" in str(outcomes[0])
    assert (await store.change("lab", MODEL, learn("ring"))).names == ("disc", "ring")


async def test_change_with_a_held_lock_takes_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 600.0)
    store = VocabularyStore(tmp_path, None)
    tenants = ("lab", "clinic")  # as many as there are threads
    for tenant in tenants:
        await store.change(tenant, MODEL, learn("disc"))
    with writing(tmp_path / "lab"), writing(tmp_path / "clinic"):
        waiting = [
            asyncio.create_task(store.change(tenant, MODEL, learn("ring"))) for tenant in tenants
        ]
        for _ in range(10):  # turns of the loop, in which they begin
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            assert (await store.change("ward", MODEL, learn("bone"))).names == ("bone",)
            assert await names(store, "lab") == ("disc",)
        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    for tenant in tenants:
        assert await names(store, tenant) == ("disc", "ring")


async def test_change_without_a_folder_is_refused() -> None:
    with pytest.raises(PreconditionError, match="expected a gateway started with --classes DIR"):
        await VocabularyStore(None, None).change("lab", MODEL, learn("disc"))


async def test_get_with_a_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    store = VocabularyStore(tmp_path, None)
    await store.change("lab", MODEL, learn("disc"))
    for ask in (store.get("lab", "b" * 64), store.change("lab", "b" * 64, learn("ring"))):
        with pytest.raises(PreconditionError, match="^classes: got one made with model aaaa") as no:
            await ask
        assert str(tmp_path) not in str(no.value)
    assert await names(store, "lab") == ("disc",)


async def test_vocabulary_without_classes_is_used_with_any_model(tmp_path: Path) -> None:
    await VocabularyStore(tmp_path, None).change("lab", MODEL, learn("disc"))
    await VocabularyStore(tmp_path, None).change("lab", MODEL, forget("disc"))
    store, other = VocabularyStore(tmp_path, None), "b" * 64
    emptied = await store.get("lab", other)
    assert emptied is not None and (emptied.names, emptied.model) == ((), other)
    await store.change("lab", other, learn("ring"))
    again = await VocabularyStore(tmp_path, None).get("lab", other)
    assert again is not None and (again.names, again.model) == (("ring",), other)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more fails with an OSError, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 400])
async def test_change_on_a_full_disk_keeps_the_old_version(tmp_path: Path, size: int) -> None:
    store = VocabularyStore(tmp_path, None)
    await store.change("lab", MODEL, learn("disc"))
    with (
        files_of_at_most(size),
        pytest.raises(LimitError, match="classes: got a full disk") as full,
    ):
        await store.change("lab", MODEL, learn("ring"))
    assert str(tmp_path) not in str(full.value)
    for reopened in (store, VocabularyStore(tmp_path, None)):
        assert await names(reopened, "lab") == ("disc",)
    await store.change("lab", MODEL, learn("bone"))
    assert len(list_versions(tmp_path / "lab")) == 1


async def test_change_in_a_closed_folder_is_refused() -> None:
    closed = Path("/sys/kernel")  # to root, too
    with pytest.raises(PreconditionError, match="to which the gateway has no access") as refused:
        await VocabularyStore(closed, None).change("lab", MODEL, learn("disc"))
    assert str(closed) not in str(refused.value)


async def test_get_with_a_damaged_vocabulary_is_refused(tmp_path: Path) -> None:
    await VocabularyStore(tmp_path, None).change("lab", MODEL, learn("disc"))
    file = next((tmp_path / "lab" / "current").resolve().glob("*.safetensors"))
    file.write_bytes(b"x" * 100)
    with pytest.raises(PreconditionError, match="classes: got stored ones that cannot be") as bad:
        await VocabularyStore(tmp_path, None).get("lab", MODEL)
    assert str(tmp_path) not in str(bad.value)
