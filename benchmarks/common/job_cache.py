"""Job cache keyed by the SHA-256 of each job's configuration, and a process pool for jobs.

A result is reused while the digest stored with it equals that of the job: a fresh checkout runs
everything, an interrupted benchmark resumes, and a changed configuration, dataset, base or code
runs again.
"""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import torch
from tqdm import tqdm

from cpcsam.artifacts.manifest import write_atomic
from cpcsam.errors import DataError

__all__ = [
    "Job",
    "code_digest",
    "code_of",
    "data_digest",
    "digest_of",
    "is_current",
    "missing",
    "results_of",
    "run_here",
    "run_in_processes",
    "run_jobs",
    "store",
]

ROOT: Final = Path(__file__).parents[2]
LEFT_OUT: Final = (
    "benchmarks.common.job_cache",
    "benchmarks.common.output",
    "cpcsam.commands",
    "reporting",
)
"""Modules and packages that start, store and show what is measured, and decide none of it."""


class Job(Protocol):
    """A unit of work whose result is a JSON file."""

    @property
    def path(self) -> Path:
        """File of the result."""

    def configuration(self) -> Mapping[str, Any]:
        """Everything that decides the result, as plain data."""


J = TypeVar("J", bound=Job)


def digest_of(configuration: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    text = json.dumps(configuration, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_current(job: Job) -> bool:
    """Return whether the job's result is there and of this configuration."""
    try:
        result = json.loads(job.path.read_text())
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise DataError.of(
            str(job.path), got=f"broken JSON ({error})", expected="a result", fix="remove the file"
        ) from error
    return bool(result.get("digest") == digest_of(job.configuration()))


def missing(jobs: Iterable[J]) -> list[J]:
    """The jobs without a current result."""
    return [job for job in jobs if not is_current(job)]


def results_of(
    jobs: Iterable[J], matches: Callable[[J], bool] = is_current
) -> list[dict[str, Any]]:
    """Read the results of jobs; names those of another configuration on stderr.

    Args:
        jobs: whose results are there or not.
        matches: whether a result that is there is of the job's configuration.
    """
    results = []
    for job in jobs:
        if job.path.exists() and matches(job):
            results.append(json.loads(job.path.read_text()))
        elif job.path.exists():
            print(f"{job.path} is left out: it is of another configuration", file=sys.stderr)
    return results


def store(job: Job, result: Mapping[str, Any]) -> None:
    """Write a job's result with the digest of its configuration, atomically."""
    document = {**result, "digest": digest_of(job.configuration())}
    write_atomic(job.path, (json.dumps(document, indent=1) + "\n").encode())


@cache
def code_digest(*modules: str, root: Path = ROOT) -> str:
    """SHA-256 of modules and of all that they import, without comments, docstrings and layout.

    What they import is found instead of listed, so that nothing which decides a result is missing.

    Args:
        modules: of the checkout; all of a package counts, which may import its modules by name.
        root: of the checkout.
    """
    digest = hashlib.sha256()
    for path, tree in sorted(code_of(*modules, root=root).items()):
        digest.update(f"{path.relative_to(root)}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def code_of(*modules: str, root: Path = ROOT) -> dict[Path, ast.AST]:
    """Syntax trees, as they are run, of modules and of all that they import, by file."""
    trees: dict[Path, ast.AST] = {}
    names = [*modules]
    while names:
        name = names.pop()
        if f"{name}.".startswith(tuple(f"{left_out}." for left_out in LEFT_OUT)):
            continue
        for path in _sources(name, root):
            if path not in trees:
                trees[path] = _AsRun().visit(ast.parse(path.read_bytes()))
                names += _imports(trees[path], root)
    return trees


class _AsRun(ast.NodeTransformer):
    """Drops docstrings and what is there for type checkers alone."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:  # noqa: N802
        # A body may become empty by this, which `ast.dump` accepts; nothing is compiled.
        return None if isinstance(node.value, ast.Constant) else node

    def visit_If(self, node: ast.If) -> ast.AST | None:  # noqa: N802
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def _imports(tree: ast.AST, root: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _sources(inner, root) else node.module


def _sources(name: str, root: Path) -> list[Path]:
    place = root.joinpath(*name.split("."))
    if place.is_dir():
        return [*place.rglob("*.py")]
    return [path for path in [place.with_suffix(".py")] if path.is_file()]


@cache
def data_digest(root: Path) -> str:
    """SHA-256 of the names and sizes of a dataset's files, wherever it lies.

    Contents are not read: a dataset has gigabytes, and an edited mask changes its size.

    Args:
        root: the dataset's folder.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


AnyJob = TypeVar("AnyJob")


def run_here(jobs: Sequence[AnyJob], work: Callable[[AnyJob], str]) -> None:
    """Run jobs one after another in this process, on all cores.

    Args:
        jobs: to run.
        work: runs a job and returns the line that is printed to stderr.
    """
    for job in tqdm(jobs, desc="runs"):
        tqdm.write(work(job), file=sys.stderr)


def run_in_processes(jobs: Sequence[AnyJob], work: Callable[[AnyJob], str], workers: int) -> None:
    """Run jobs in processes of one thread.

    Args:
        jobs: to run.
        work: runs a job and returns the line that is printed to stderr.
        workers: number of processes.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_use_one_thread) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), desc="runs"):
            tqdm.write(future.result(), file=sys.stderr)


def run_jobs(jobs: Sequence[AnyJob], work: Callable[[AnyJob], str], workers: int) -> None:
    """Run jobs here, on all cores and the GPU, with one worker, and else in processes."""
    if workers == 1:
        run_here(jobs, work)
    else:
        run_in_processes(jobs, work, workers)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
