from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import pytest

from cpcsam.artifacts.manifest import publish, read_manifest
from cpcsam.errors import ArtifactError, ServingError
from cpcsam.gpu import visible_gpus
from export.triton_repository.publishing import build_repository
from serving.supervision.processes import processes
from serving.triton import faults
from serving.triton.faults import Fault, steps_of, wait_for_fault
from serving.triton.launch import SHARED_MEMORY, TritonServer, launch_triton
from serving.triton.probe import answered_requests, infer_tiny_image, is_ready

pytestmark = [pytest.mark.triton, pytest.mark.slow]

TIMEOUT_S = 120


def group(leader: int) -> list[int]:
    """Return the processes of a group, without zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgid = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgid) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def regions(log: Path) -> list[Path]:
    """Return the shared memory left by the servers of this log."""
    prefixes = set(re.findall(r'"shm-region-prefix-name":"(cpcsam-\w+-)"', log.read_text()))
    assert prefixes
    return [left for prefix in prefixes for left in SHARED_MEMORY.glob(f"{prefix}*")]


def wait_until_gone(leader: int) -> None:
    deadline = monotonic() + TIMEOUT_S
    while group(leader):
        assert monotonic() < deadline, f"still there: {group(leader)}"
        sleep(0.2)


def test_launch_with_a_failing_model_names_it_and_leaves_nothing(
    graphs: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(graphs)
    with publish(tmp_path / "onnx", "onnx", config=manifest.config) as staging:
        for name in manifest.files:
            (staging / name).write_bytes((graphs / name).read_bytes())
        (staging / "mask_decoder.onnx").write_bytes(b"no graph")
    build_repository(tmp_path / "onnx", tmp_path / "repository")
    log = tmp_path / "triton.log"
    with pytest.raises(ServingError) as caught, launch_triton(tmp_path / "repository", log=log):
        pass
    message = str(caught.value)
    assert "model decoder: " in message and "mask_decoder.onnx" in message
    assert "ONNX Runtime refuses" in message
    assert "\n" not in message
    assert "ensemble" not in message
    assert str(log) in message
    assert not regions(log)


def test_launch_with_an_altered_or_missing_repository_is_refused(
    repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="no manifest"), launch_triton(tmp_path):
        pass
    config = read_manifest(repository).config
    with publish(tmp_path / "altered", "repository", config=config) as staging:
        (staging / "file").write_text("as made")
    (tmp_path / "altered" / "file").write_text("altered")
    with pytest.raises(ArtifactError, match="altered"), launch_triton(tmp_path / "altered"):
        pass


def test_launch_with_a_gpu_repository_is_refused(tmp_path: Path) -> None:
    config = {"target": "gpu", "engine": {"tensorrt": "10.13.3", "compute_capability": "8.9"}}
    with publish(tmp_path / "gpu", "repository", config=config):
        pass
    with pytest.raises(ServingError, match=r"got a repository for gpu, engines of TensorRT 10\.13"):
        with launch_triton(tmp_path / "gpu"):
            pass


@pytest.mark.skipif(bool(visible_gpus()), reason="there is a GPU")
def test_launch_with_a_cuda_repository_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with publish(tmp_path / "cuda", "repository", config={"target": "cuda"}):
        pass
    with pytest.raises(ServingError, match="ONNX Runtime.s CUDA provider, and no GPU"):
        with launch_triton(tmp_path / "cuda"):
            pass


def test_launch_with_a_busy_port_names_it(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=rf"--http-port: got {port} .*in use"):
            with launch_triton(repository, http_port=port):
                pass


def test_launch_beyond_its_timeout_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"not ready after 0\.01 s"):
        with launch_triton(repository, timeout_s=0.01, log=tmp_path / "log"):
            pass


@dataclass(frozen=True)
class Command:
    """`python -m serving.triton` when it is ready, its log and its Triton's process group."""

    process: subprocess.Popen[str]
    leader: int
    http: str
    log: Path


@pytest.fixture
def command(repository: Path) -> Iterator[Command]:
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.triton", "--repository", str(repository)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    leader = 0
    try:
        assert process.stdout is not None
        said = dict(process.stdout.readline().split() for _ in range(4))
        assert re.fullmatch(r"127\.0\.0\.1:\d+", said["grpc"])
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        [leader] = map(int, children)
        # The server, two processes of `preprocess`, the image encoder and the decoder.
        assert len(group(leader)) >= 5
        http = said["http"].removeprefix("http://")
        yield Command(process, leader, http, Path(said["log"]))
    finally:
        process.kill()
        process.communicate()
        if leader:
            wait_until_gone(leader)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_triton_command_on_a_signal_ends_with_all_its_processes(
    command: Command, number: signal.Signals
) -> None:
    command.process.send_signal(number)
    _, errors = command.process.communicate(timeout=TIMEOUT_S)
    assert (command.process.returncode, errors) == (0, "")
    assert not group(command.leader)
    assert not command.log.exists()


def test_triton_when_its_launcher_is_killed_ends(command: Command) -> None:
    command.process.kill()
    wait_until_gone(command.leader)
    assert not regions(command.log)
    command.log.unlink()


def test_triton_command_restarts_a_dead_server_at_its_addresses(command: Command) -> None:
    os.kill(command.leader, signal.SIGKILL)
    assert command.process.stderr is not None
    assert (
        "it ended with exit status -9; it is restarted in 0 s" in command.process.stderr.readline()
    )
    assert "Triton serves again" in command.process.stderr.readline()
    infer_tiny_image(command.http, TIMEOUT_S)
    assert not group(command.leader)
    command.process.terminate()
    command.process.communicate(timeout=TIMEOUT_S)
    assert command.process.returncode == 0
    assert not regions(command.log), "neither server left any"
    command.log.unlink()


def step_of(server: TritonServer, model: str) -> int:
    """Return the process of a Python step."""
    [step] = [
        process.pid
        for process in processes()
        if process.parent == server.process.pid
        and f"/{model}/" in Path(f"/proc/{process.pid}/cmdline").read_text()
    ]
    return step


def test_fault_of_a_dead_step_is_noticed_though_triton_is_ready(repository: Path) -> None:
    with launch_triton(repository) as server:
        address = server.http_url.removeprefix("http://")
        infer_tiny_image(address, TIMEOUT_S)
        deadline = monotonic() + TIMEOUT_S
        while not answered_requests(address, TIMEOUT_S).requests and monotonic() < deadline:
            sleep(0.05)  # Triton counts a request just after its response
        assert answered_requests(address, TIMEOUT_S).requests == 1

        encoder = step_of(server, "image_encoder")
        threading.Timer(1.0, os.kill, (encoder, signal.SIGKILL)).start()
        fault = wait_for_fault(server.process, address, steps_of(server.process.pid))
        assert fault == Fault("step", "the process of its step image_encoder ended")
        assert is_ready(address), "which is why the process is watched"
        server.kill()
        assert wait_for_fault(server.process, address, steps_of(server.process.pid)).cause == "exit"


def test_fault_of_a_step_that_hangs_is_noticed_by_inference(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "CHECK_PERIOD_S", 0.1)
    monkeypatch.setattr(faults, "MAX_SHARE", 1.0)
    monkeypatch.setattr(faults, "PATIENCE_S", 3.0)
    with launch_triton(repository) as server:
        address = server.http_url.removeprefix("http://")
        decoder, answered = step_of(server, "decoder"), threading.Event()

        def hang() -> None:
            """Stop the step when tiny images of the watch itself were answered."""
            deadline = monotonic() + TIMEOUT_S
            while not answered_requests(address, TIMEOUT_S).requests and monotonic() < deadline:
                sleep(0.05)
            if monotonic() < deadline:
                answered.set()
            os.kill(decoder, signal.SIGSTOP)

        hanging = threading.Thread(target=hang)
        hanging.start()
        fault = wait_for_fault(server.process, address, steps_of(server.process.pid))
        hanging.join()
        assert answered.is_set(), fault
        assert fault.cause == "inference"
        assert fault.text.startswith("a tiny image failed 3 times: ")
        server.kill()


def test_triton_command_with_an_invalid_repository_prints_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving.triton", "--repository", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"python -m serving\.triton: .*no manifest\.json.*\n", done.stderr)
