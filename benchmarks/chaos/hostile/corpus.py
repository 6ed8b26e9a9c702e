"""The corpus: attack number n of a seed, and a process that carries out a range of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import process_time, time
from typing import Final

from benchmarks.chaos.hostile.callers import draw_caller, draw_class, draw_metadata
from benchmarks.chaos.hostile.messages import draw_bulk, draw_fields, draw_image, draw_protobuf
from benchmarks.chaos.hostile.sockets import draw_http2, draw_tcp
from benchmarks.chaos.hostile.wire import Attack, Target, Wire

__all__ = ["FAMILIES", "NOT_SENT", "UNENDED", "Raid", "Trace", "attack_of", "carry_out"]

FAMILIES: Final[dict[str, tuple[Callable[[random.Random], Attack], float]]] = {
    "tcp": (draw_tcp, 8),
    "http2": (draw_http2, 15),
    "protobuf": (draw_protobuf, 20),
    "fields": (draw_fields, 20),
    "images": (draw_image, 20),
    "metadata": (draw_metadata, 6),
    "callers": (draw_caller, 6),
    "classes": (draw_class, 4),
    "bulk": (draw_bulk, 1),
}
"""How an attack of each family is drawn, and its share in percent."""
UNENDED: Final = "no end"
NOT_SENT: Final = "not sent:"
END_S: Final = 20.0
"""After which an attack without an end is given up; no call has a longer deadline."""


@dataclass(frozen=True)
class Trace:
    """An attack that was carried out.

    Attributes:
        number: in the corpus.
        name: `family.kind`.
        outcome: a gRPC status's name or a lower-case word.
        begin: seconds since the epoch.
        end: likewise.
    """

    number: int
    name: str
    outcome: str
    begin: float
    end: float


@dataclass(frozen=True)
class Raid:
    """What a process carried out.

    Attributes:
        traces: of all attacks.
        details: messages of the gRPC statuses, each once.
        cpu_s: CPU seconds of the process, which takes none that another program wants.
    """

    traces: list[Trace]
    details: set[str]
    cpu_s: float


def attack_of(seed: int, number: int, families: Sequence[str] = ()) -> Attack:
    """Return an attack of the corpus; equal arguments give equal attacks.

    Args:
        seed: of the corpus.
        number: from 0.
        families: names to draw from; all by default.
    """
    rng = random.Random(f"{seed}/{number}")
    names = [*(families or FAMILIES)]
    (name,) = rng.choices(names, [FAMILIES[name][1] for name in names])
    return FAMILIES[name][0](rng)


def carry_out(
    target: Target,
    seed: int,
    numbers: Sequence[int],
    workers: int,
    families: Sequence[str] = (),
) -> Raid:
    """Carry out attacks of a corpus, several at a time, in a process for this alone.

    Args:
        target: the service.
        seed: of the corpus.
        numbers: of the attacks.
        workers: attacks at a time, besides callers that linger.
        families: as for `attack_of`.
    """
    return asyncio.run(_carry_out(target, seed, numbers, workers, families))


async def _carry_out(
    target: Target, seed: int, numbers: Sequence[int], workers: int, families: Sequence[str]
) -> Raid:
    wire, rest, spent = Wire(target), iter(numbers), process_time()
    traces: list[Trace] = []

    async def worker() -> None:
        for number in rest:
            attack, begin = attack_of(seed, number, families), time()
            outcome = UNENDED
            try:
                async with asyncio.timeout(END_S):
                    outcome = await attack.run(wire)
            except TimeoutError:
                pass
            except Exception as error:  # a fault of the corpus, which the report shows
                outcome = f"{NOT_SENT} {type(error).__name__}"
            traces.append(Trace(number, attack.name, outcome, begin, time()))

    await asyncio.gather(*(worker() for _ in range(workers)))
    await wire.close()
    return Raid(traces, wire.details, process_time() - spent)
