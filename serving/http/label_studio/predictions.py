"""Predictions for tasks: of what an annotator draws, and of classes or everything before that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from typing import Any, Final

import grpc
from grpc.aio import AioRpcError

from cpcsam.errors import ContractError, CpcSamError, ServingError
from cpcsam.grpc_errors import status_of_error
from cpcsam.v1 import segmentation_pb2 as pb
from serving.http.caller import Caller
from serving.http.gateway import Gateway
from serving.http.label_studio.addresses import data_of_uri, is_data_uri
from serving.http.label_studio.context import Interaction
from serving.http.label_studio.host import LabelStudioHost
from serving.http.label_studio.known_images import KnownImages
from serving.http.label_studio.label_config import Control, LabelConfig
from serving.http.label_studio.records import invalid, object_member
from serving.http.label_studio.regions import mask_format_of, prediction_of, regions_of
from serving.http.label_studio_config import LabelStudioConfig
from serving.http.problems import STATUSES, Problem, quoted
from serving.http.protojson import in_thread_if_large

__all__ = ["Predictor", "version_of"]

LOG: Final = logging.getLogger(__name__)
BATCH_S: Final = 80.0
"""Seconds for all tasks of a request; Label Studio waits for 100."""
CONCURRENT_TASKS: Final = 2
"""A third would wait in the gateway for the first two."""
READERS: Final = 4
"""Threads that wait for Label Studio."""


def version_of(name: str, version: str) -> str:
    """Return `model_version` of a model, which predictions are stored with."""
    return f"{name}-{version}"


class Predictor:
    """Makes predictions by calls to the gateway.

    Args:
        config: of Label Studio; None admits data URIs alone.
    """

    def __init__(self, config: LabelStudioConfig | None) -> None:
        limits = config or LabelStudioConfig("http://localhost", "none")
        self._host = None if config is None else LabelStudioHost(config)
        self._known = KnownImages(limits.max_known_images, limits.known_s)
        # Threads of their own: a Label Studio that hangs would take those that parse all requests.
        self._readers = ThreadPoolExecutor(READERS, "label-studio")

    async def interactive(
        self,
        task: Mapping[str, Any],
        interaction: Interaction,
        config: LabelConfig,
        gateway: Gateway,
        caller: Caller,
    ) -> dict[str, Any]:
        """Segment what an annotator has drawn.

        Raises:
            Problem: the task has no such image, or it is not of the size that was drawn on, or
                Label Studio does not give it.
            AioRpcError: the gateway's failure.
        """
        control = config.output_of(interaction.to_name, interaction.label)
        request = pb.SegmentRequest(
            prompts=interaction.prompts, mask_format=mask_format_of(control)
        )
        request.mask_selection = pb.MASK_SELECTION_BEST
        key = config.images.get(interaction.to_name)
        answer = await self._segment(task, key, request, gateway, caller)
        size = answer.original_size.height, answer.original_size.width
        if size != interaction.size:
            raise invalid(
                "original_width",
                "{1} x {0} pixels".format(*interaction.size),
                "the image's {1} x {0}".format(*size),
                "reload the task",
            )
        label = control.label(interaction.label)
        assert label is not None  # `output_of` has found it
        masks = [(result.masks[0], label.value) for result in answer.results]
        regions = await asyncio.to_thread(regions_of, masks, control, size, interaction.seed)
        return prediction_of(regions, version_of(answer.model_name, answer.model_version))

    async def batch(
        self,
        tasks: Sequence[Mapping[str, Any]],
        config: LabelConfig,
        gateway: Gateway,
        caller: Caller,
    ) -> list[list[dict[str, Any]]]:
        """Find the entities of classes, or everything, in the images of tasks.

        Returns:
            For each task a list with its prediction; an empty list, which Label Studio stores
            nothing for and asks again, where it failed, or there was no time for it.

        Raises:
            Problem: no label names a class, or the first failure if no task succeeded.
            AioRpcError: the gateway's failure, likewise.
        """
        known = await gateway.call("ListClasses", pb.ListClassesRequest(), caller)
        names = [one.name for one in known.classes]
        searches = await asyncio.to_thread(_searches, config, names)
        deadline = monotonic() + BATCH_S
        turns = asyncio.Semaphore(CONCURRENT_TASKS)
        failures: list[Exception] = []

        async def predict(task: Mapping[str, Any]) -> list[dict[str, Any]]:
            async with turns:
                left = deadline - monotonic()
                if left <= 0:
                    return []
                own = replace(caller, timeout_s=min(caller.timeout_s, left))
                try:
                    # Each call of a task has a time limit; this one is for all of them.
                    async with asyncio.timeout(left):
                        return [await self._search(task, config, searches, gateway, own)]
                except (AioRpcError, Problem, TimeoutError) as error:
                    failure = _late() if isinstance(error, TimeoutError) else error
                    LOG.warning("task %s: %s", task.get("id"), _message(failure))
                    failures.append(failure)
                    return []

        found = await asyncio.gather(*map(predict, tasks))
        if failures and not any(found):
            raise failures[0]
        return found

    async def _search(
        self,
        task: Mapping[str, Any],
        config: LabelConfig,
        searches: Sequence[tuple[Control, Mapping[str, str]]],
        gateway: Gateway,
        caller: Caller,
    ) -> dict[str, Any]:
        regions: list[dict[str, Any]] = []
        version = ""
        for control, labels in searches:
            request = pb.SegmentRequest(classes=labels, mask_format=mask_format_of(control))
            if not labels:
                request.everything.CopyFrom(_everything(control))
            key = config.images.get(control.to_name)
            answer = await self._segment(task, key, request, gateway, caller)
            masks = [
                (mask, labels.get(mask.label, control.everything or ""))
                for result in answer.results
                for mask in result.masks
            ]
            size = answer.original_size.height, answer.original_size.width
            regions += await asyncio.to_thread(regions_of, masks, control, size)
            version = version_of(answer.model_name, answer.model_version)
        return prediction_of(regions, version)

    async def _segment(
        self,
        task: Mapping[str, Any],
        key: str | None,
        request: pb.SegmentRequest,
        gateway: Gateway,
        caller: Caller,
    ) -> pb.SegmentResponse:
        """Segment a task's image, which is sent only if the gateway does not know it."""
        reference = object_member(task, "data").get(key or "")
        if not isinstance(reference, str) or not reference:
            raise invalid(
                "data", f"no image {quoted(key)}", "one for the labelling configuration", "add"
            )
        request.request_id = caller.request_id
        # A data URI of many megabytes takes a while.
        entry = await in_thread_if_large(len(reference), KnownImages.key, caller.token, reference)
        answer: pb.SegmentResponse
        image_id = self._known.get(entry)
        if image_id is not None:
            request.image_id = image_id
            try:
                answer = await gateway.call("Segment", request, caller)
                return answer
            except AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
        request.image_bytes = await self._read(reference, task.get("id"))
        answer = await gateway.call("Segment", request, caller)
        self._known.put(entry, answer.image_id)
        return answer

    async def _read(self, reference: str, task_id: object) -> bytes:
        """Return an image's file.

        Raises:
            Problem: it is none that may be read, or Label Studio does not give it.
        """
        try:
            if is_data_uri(reference):
                return await asyncio.to_thread(data_of_uri, reference)
            if self._host is None:
                raise ContractError.of(
                    "image",
                    got="an address, but no Label Studio to read it from",
                    expected="a data URI",
                    fix="start the service with --label-studio-url",
                )
            number = task_id if isinstance(task_id, int) else None
            loop = asyncio.get_running_loop()
            read = self._host.read_image
            return await loop.run_in_executor(self._readers, read, reference, number)
        except (ContractError, ServingError) as error:
            raise _problem(error) from None


def _searches(config: LabelConfig, known: Sequence[str]) -> list[tuple[Control, Mapping[str, str]]]:
    """Return what to look for: controls with labels by class, none for everything.

    A class belongs to the first control that names it, exactly or but for capital letters; those
    that hold most of a mask come first.
    """
    searches: list[tuple[Control, Mapping[str, str]]] = []
    names = {name.casefold(): name for name in known} | {name: name for name in known}
    for to_name in config.images:
        taken: set[str] = set()
        for control in config.outputs(to_name):
            if control.everything is not None:
                searches.append((control, {}))
                continue
            labels: dict[str, str] = {}
            for label in control.labels:
                for written in label.classes:
                    name = names.get(written) or names.get(written.casefold())
                    if name is not None and name not in taken:
                        labels.setdefault(name, label.value)
            taken.update(labels)
            if labels:
                searches.append((control, labels))
    if not searches:
        raise invalid(
            "label_config",
            "no label that names a class, and no model_everything",
            f"one of {', '.join(known) or 'no classes, as none is taught'}",
            "name a label so, or list classes in its predicted_values",
        )
    return searches


def _everything(control: Control) -> pb.Everything:
    search = control.search
    points = search.get("points_per_side")
    return pb.Everything(
        points_per_side=None if points is None else round(points),
        min_iou=search.get("min_iou"),
        min_stability=search.get("min_stability"),
    )


def _problem(error: CpcSamError) -> Problem:
    """Return the refusal for what Label Studio did not give."""
    code = status_of_error(error).name
    # The caller's own token is not at fault where Label Studio refuses ours.
    status = 502 if code in ("PERMISSION_DENIED", "UNAVAILABLE") else STATUSES[code]
    return Problem.of(status, code, str(error), "image")


def _late() -> Problem:
    return Problem.of(
        504,
        "DEADLINE_EXCEEDED",
        f"tasks: got no answer within {BATCH_S:g} s, expected one; predict fewer at a time",
        "tasks",
    )


def _message(error: AioRpcError | Problem) -> str | None:
    return error.detail if isinstance(error, Problem) else error.details()
