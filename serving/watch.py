"""Command: run tritonserver and end when it cannot serve any more, as a container needs it.

python -m serving.watch tritonserver --model-repository=/models/1
python -m serving.watch
python -m serving.watch --golden /models --timeout 60

Triton lives on, and says that it is ready, when one of its steps is dead. This watches processes
and inference, kills Triton then and exits with status 2, so that the restart policy of the
container starts both again. SIGTERM and Ctrl-C stop Triton.

Where PATH has no `tritonserver`, that of the wheel nvidia-pytriton is run, for the CPU.

Without a command it sends a tiny image through all steps of the Triton that runs on this machine.
The exit status, 0 or 2, is for the health check of the container. With --golden it compares the
answers of that Triton with those that its version was published with, as a startup probe.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cpcsam.artifacts.versions import resolve_version
from cpcsam.commands import parser_of, port, positive, run_command, until_interrupted
from cpcsam.errors import ServingError
from serving.supervision.exec_with_pdeathsig import ending_with_this_process
from serving.triton.faults import Fault, steps_of, wait_for_fault
from serving.triton.golden import check_golden
from serving.triton.install import find_triton
from serving.triton.probe import infer_tiny_image, is_ready

__all__ = ["main"]

PROG: Final = "python -m serving.watch"
SERVER: Final = "tritonserver"
HTTP_PORT: Final = "--http-port"
DEFAULT_HTTP_PORT: Final = 8000
POLL_S: Final = 0.2
EXIT_TIMEOUT_S: Final = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; 0 after Ctrl-C or SIGTERM."""
    parser = parser_of(PROG, __doc__)
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="tritonserver ...",
        help="the server and its options",
    )
    _add_http_port(parser)
    parser.add_argument(
        "--timeout",
        type=positive,
        default=10.0,
        metavar="S",
        help="for each answer (%(default)s)",
    )
    text = "version that Triton serves, or versions of which it serves the current one"
    parser.add_argument("--golden", type=Path, metavar="DIR", help=text)
    return run_command(parser, _watch, argv)


def _add_http_port(parser: argparse.ArgumentParser) -> None:
    text = f"of Triton, unless its options say otherwise ({DEFAULT_HTTP_PORT})"
    parser.add_argument(HTTP_PORT, type=port, metavar="PORT", help=text)


def _watch(args: argparse.Namespace) -> None:
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_http_port(options)
    known, _ = options.parse_known_args(args.command[1:])
    address = f"127.0.0.1:{known.http_port or args.http_port or DEFAULT_HTTP_PORT}"
    if not args.command:
        _check(address, args.timeout, args.golden)
        return
    with until_interrupted(), _running(args.command) as server:
        raise ServingError.of(
            "Triton", got=_fault_of(server, address).text, expected="a server", fix="start it again"
        )


def _check(address: str, timeout_s: float, golden: Path | None) -> None:
    if golden is not None:
        if not check_golden(resolve_version(golden), address, timeout_s):
            raise ServingError.of(
                str(golden), got="no golden answers", expected="some", fix="publish it with them"
            )
        return
    try:
        infer_tiny_image(address, timeout_s)
    except OSError as error:
        raise ServingError.of(
            f"Triton at {address}", got=str(error), expected="an answer", fix="see its log"
        ) from error


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server; when the block ends by a signal, let running requests finish."""
    environment = {**os.environ}
    program = shutil.which(command[0])
    parts: dict[str, str] = {}
    if program is None and command[0] == SERVER:
        install = find_triton()
        program, parts = str(install.server), install.options
        environment = install.environment(environment)
    if program is None:
        raise ServingError.of(
            command[0], got="no such program", expected=SERVER, fix="give its path"
        )
    words = [program, *(f"{name}={value}" for name, value in parts.items()), *command[1:]]
    # In a session of its own, so that only this process gets Ctrl-C, and all steps can be killed.
    server = subprocess.Popen(
        ending_with_this_process(words), env=environment, start_new_session=True
    )
    try:
        yield server
    except KeyboardInterrupt:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(EXIT_TIMEOUT_S)
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _fault_of(server: subprocess.Popen[bytes], address: str) -> Fault:
    """Wait until the server is ready, which may take long, and then until it has a fault."""
    while server.poll() is None and not is_ready(address):
        time.sleep(POLL_S)
    return wait_for_fault(server, address, steps_of(server.pid))


if __name__ == "__main__":
    sys.exit(main())
