from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import sleep

import numpy as np
import pytest

from benchmarks.peers.load.drive import Connect, Sample, Send, closed_loop, open_loop
from benchmarks.peers.load.run import MIN_ARRIVALS, drive, masks, prime
from benchmarks.peers.load.workloads import (
    BOX,
    EVERYTHING,
    Request,
    Workload,
    first_requests,
    requests_of,
)
from cpcsam.automatic.rle import mask_from_rle
from cpcsam.images.reading import decode_image

NEW = Workload("new", count=9, side=64)
KNOWN = Workload("known", count=6, new=False, clients=2, side=64)
BOXES = Workload("boxes", BOX, 2, new=False, prompts=5, side=64)


class System:
    """Answers each request after some time, one at a time, and keeps what it was sent.

    The first ones wait until so many are `together`, as threads may start one after the other.
    """

    def __init__(self, seconds: float = 0.0, refused: int = -1, together: int = 1) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.most = self.now = 0
        self._seconds, self._refused = seconds, refused
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._together = threading.Barrier(together)

    @property
    def connect(self) -> Connect:
        @contextmanager
        def connection() -> Iterator[Send]:
            with self._lock:
                self.connections += 1
            yield self.send

        return connection

    def send(self, request: Request) -> Sequence[np.ndarray]:
        with self._lock:
            self.requests.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
            number = len(self.requests)
        if number <= self._together.parties:
            self._together.wait(60)
        with self._turn:
            sleep(self._seconds)
        with self._lock:
            self.now -= 1
        if number == self._refused:
            raise TimeoutError("too late")
        return [np.eye(4, dtype=bool)]


def test_requests_of_equal_workloads_are_equal_and_new_images_differ_by_bytes_alone() -> None:
    requests = requests_of(NEW)
    assert requests == requests_of(NEW)
    assert len({request.image_id for request in requests}) == NEW.count
    assert {request.image_id for request in requests}.isdisjoint(
        request.image_id for request in requests_of(Workload("other", count=9, side=64))
    )
    first, second = requests[0], requests_of(NEW, 1, start=8)[0]
    assert first.image != second.image and first.prompts != second.prompts
    pixels = [decode_image(request.image) for request in (first, second)]
    assert np.array_equal(*pixels) and pixels[0].shape == (64, 64, 3)


def test_first_requests_make_every_repeated_image_known() -> None:
    assert first_requests(NEW) == []
    for workload, images in ((KNOWN, 4), (BOXES, 1)):
        first, later = first_requests(workload), requests_of(workload, 8)
        ids = [request.image_id for request in first]
        assert len(ids) == images and {*ids} == {request.image_id for request in later}
        assert not any(request.known for request in first)
        assert all(request.known for request in later)


def test_prompts_lie_in_the_image_and_a_grid_has_none() -> None:
    for request in requests_of(BOXES):
        boxes = np.array([prompt.box for prompt in request.prompts])
        assert boxes.shape == (5, 4) and (boxes >= 0).all() and (boxes <= 64).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all()
    (grid,) = requests_of(Workload("grid", EVERYTHING, prompts=16, side=64))
    assert (grid.grid, grid.prompts) == (16, ())


def test_closed_loop_sends_each_request_once_with_one_in_flight_a_client() -> None:
    system = System(seconds=0.002, refused=4, together=3)
    samples = closed_loop(system.connect, requests_of(NEW), clients=3)
    assert sorted(r.image_id for r in system.requests) == sorted(
        r.image_id for r in requests_of(NEW)
    )
    assert system.connections == system.most == 3
    assert sorted(sample.status for sample in samples) == ["OK"] * 8 + ["TimeoutError"]
    assert all(sample.seconds >= 0.002 for sample in samples)


def test_open_loop_charges_requests_for_the_time_since_they_were_due() -> None:
    system = System(seconds=0.02)
    samples = open_loop(system.connect, requests_of(NEW), rate=1000)
    # All nine are due at once, and the system takes 20 ms for each.
    slowest = max(samples, key=lambda sample: sample.at_s + sample.seconds)
    assert slowest.seconds > 0.15
    assert [sample.status for sample in samples] == ["OK"] * 9


def test_open_loop_keeps_the_rate_of_arrivals() -> None:
    samples = open_loop(System().connect, requests_of(NEW, 40), rate=200)
    arrivals = np.sort([sample.at_s for sample in samples])
    assert arrivals[0] == pytest.approx(0, abs=1e-3)
    assert 0.1 < arrivals[-1] < 0.4  # 39 intervals of 5 ms in the mean


def test_drive_primes_nothing_and_takes_an_open_loop_by_its_rate() -> None:
    system = System()
    prime(system.connect, KNOWN)
    assert not any(request.known for request in system.requests) and len(system.requests) == 4
    assert len(drive(system.connect, KNOWN)) == KNOWN.count
    offered = Workload("load", load=0.5, seconds=0.1, side=64)
    assert len(drive(system.connect, offered, rate=300.0)) == 30
    assert len(drive(system.connect, offered, rate=50.0)) == MIN_ARRIVALS


def test_masks_are_run_lengths_in_the_order_of_the_requests() -> None:
    found = masks(System().connect, BOXES)
    assert len(found) == BOXES.count
    assert np.array_equal(mask_from_rle(found[0][0], (4, 4)), np.eye(4, dtype=bool))


def test_sample_survives_its_form_as_a_list() -> None:
    sample = Sample(0.5, 0.25, "RESOURCE_EXHAUSTED")
    assert Sample(*[0.5, 0.25, "RESOURCE_EXHAUSTED"]) == sample
