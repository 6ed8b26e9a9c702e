"""Mutated lists and masks: each ends in samples, an error of the project or a counted loss."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.coco_factory import content, write
from tests.support.dataset_factory import box, folders, picture, run_lengths, save
from tests.support.paths import ROOT

COUNT = 100
LIMIT = 1 << 30
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1e300, 10**30, float("nan"), float("inf"), "", "text", "\ud800", "a\0b",
    "../../x", [], [[]], [[[]]], {}, {"a": 1}, [1e9] * 6, [[0, 0, 1e9, 1e9, 5, 5]],
    [[float("nan")] * 8], {"size": [24, 32], "counts": "PPPPPP"}, {"size": [24, 32], "counts": ""},
    {"size": [24, 32], "counts": [2**40, -(2**40) + 768]}, {"size": [10**9, 10**9], "counts": "0"},
    {"size": [24, 32], "counts": [10**18]}, {"counts": 5}, "[[1,2,3]]", b"\xe9".decode("latin-1"),
)  # fmt: skip
"""Values that take the place of any other."""

CHILD = """
import json, resource, sys
from pathlib import Path
from benchmarks.common.memory import rss_peak_bytes
from cpcsam.errors import CpcSamError
from training.data.check_dataset import examine
from training.data.datasets.protocol import open_dataset
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
for name, root in (line.split() for line in sys.stdin):
    try:
        dataset = open_dataset(name, Path(root))
    except CpcSamError as error:
        outcome = {"refused": str(error)}
    else:
        account = dataset.account
        items = [item for part in dataset.parts.values() for item in part]
        for item in items:
            seen = examine(item)
            account.add(seen.account)
            try:
                item.read()
            except CpcSamError:
                assert seen.errors, "training stops at what the check names"
        outcome = account.as_dict() | {"losses": len(dataset.losses)}
    print(json.dumps({"root": root} | outcome), flush=True)
print(json.dumps(rss_peak_bytes()))
"""


def spoilt(valid: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Replace, remove, repeat or move one to three values anywhere in a list."""
    one = copy.deepcopy(valid)
    for _ in range(rng.randint(1, 3)):
        places = [(one, key) for key in one]
        for holder in list(one.values()):
            rows = holder if isinstance(holder, list) else []
            places += [(rows, index) for index in range(len(rows))]
            places += [(row, key) for row in rows if isinstance(row, dict) for key in row] * 3
        holder, key = rng.choice(places)
        change = rng.randrange(4)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = rng.choice(STRANGE)
    return one


def cut(raw: bytes, rng: random.Random) -> bytes:
    """Cut bytes short, or change some of them."""
    if rng.random() < 0.4:
        return raw[: rng.randrange(len(raw))]
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def corpus(root: Path) -> list[tuple[str, Path]]:
    """Write the mutated datasets; returns name and folder of each."""
    rng = random.Random(7)
    valid = content(3)
    valid["annotations"][1]["segmentation"] = run_lengths(box(4, 4, 9, 9))
    valid["annotations"][2]["segmentation"] = {
        "size": [24, 32],
        "counts": "T3:>0000000000000000`0e3",
    }
    (root / "shared").mkdir()
    for row in valid["images"]:
        save(root / "shared" / row["file_name"], picture(row["id"]))
    made = []
    for index in range(COUNT):
        place = root / f"set{index}"
        if index % 5 == 4:
            place.mkdir()
            folders(place, 3)
            (place / "classes.txt").write_bytes(cut("entity\nzellé\n".encode(), rng))
            mask = place / f"masks/{rng.randrange(3)}.png"
            mask.write_bytes(cut(mask.read_bytes(), rng))
            made.append(("folders", place))
            continue
        (place / "annotations").mkdir(parents=True)
        (place / "images").symlink_to(root / "shared")
        path = place / "annotations/a.json"
        if index % 5 == 3:
            path.write_bytes(cut(json.dumps(valid).encode(), rng))
        else:
            path.write_text(json.dumps(spoilt(valid, rng)))
        made.append(("coco", place))
    return made


def test_mutated_datasets_end_in_samples_errors_or_losses(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(LIMIT)],
        input="".join(f"{name} {place}\n" for name, place in made),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    *outcomes, peak = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(outcomes) == COUNT
    refused = [outcome for outcome in outcomes if "refused" in outcome]
    read = [outcome for outcome in outcomes if "refused" not in outcome]
    assert len(refused) >= 5 and len(read) >= 40
    assert all(outcome["root"] in outcome["refused"] for outcome in refused)
    for outcome in read:
        for unit in ("images", "pages", "annotations", "entities"):
            counts = outcome[unit]
            assert counts["found"] == counts["read"] + sum(counts["left_out"].values())
    lossy = [outcome for outcome in read if outcome["annotations"]["left_out"]]
    assert len(lossy) >= 15
    assert peak < 2 * LIMIT


def test_an_outline_that_would_fill_the_memory_is_a_loss(tmp_path: Path) -> None:
    one = content(3)
    one["annotations"][0]["segmentation"] = [[0, 0, 1e9, 0, 1e9, 1e9]]
    one["annotations"][1]["segmentation"] = [[0, 0, 60, 40] * 200_000]
    one["annotations"][2]["segmentation"] = run_lengths(box(4, 4, 9, 9))
    write(tmp_path, {"annotations/a.json": one})
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(LIMIT)], input=f"coco {tmp_path}\n",
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    outcome, peak = map(json.loads, child.stdout.splitlines())
    assert peak < 2 * LIMIT
    assert outcome["annotations"] == {"found": 3, "read": 1, "left_out": {"damaged polygons": 2}}
    assert outcome["images"]["read"] == 3 and outcome["losses"] == 2
    assert np.isclose(outcome["entities"]["read"], 1)
