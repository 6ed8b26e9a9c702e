"""Command `cpcsam status`: the server's health, model and limits."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from cpcsam.cli.options import Commands, add_connection, connect
from cpcsam.errors import ServingError

if TYPE_CHECKING:
    from cpcsam.client.results import Description

__all__ = ["add_to"]

EXAMPLES: Final = """\
examples:
  cpcsam status
  cpcsam status --json
  cpcsam status --address gateway:50051 --timeout 5
  cpcsam status --address gateway:50051 --ca ca.pem --token-file token"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "status",
        help="show the server's health, model and limits",
        description="Show the server's health, model and limits; fails if it is not serving.",
        epilog=EXAMPLES,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_connection(parser)


def _run(args: argparse.Namespace) -> None:
    with connect(args) as client:
        description = client.describe()
        healthy = client.healthy()
    if args.json:
        formats = [form.name for form in description.mask_formats]
        report = {"address": args.address, "healthy": healthy, **asdict(description)}
        print(json.dumps(report | {"mask_formats": formats}, indent=2))
    else:
        _print(args.address, healthy, description)
    if not healthy:
        raise ServingError.of(
            "health", got="not serving", expected="serving", fix="see the gateway's log"
        )


def _print(address: str, healthy: bool, description: Description) -> None:
    print(f"address   {address}")
    print(f"health    {'serving' if healthy else 'not serving'}")
    model = f"{description.model_size}, {description.image_size} px"
    print(f"model     {description.model_name} {description.model_version} ({model})")
    print(f"window    {_window(description)}")
    if description.intensity is not None:
        print(f"intensity {description.intensity}")
    if description.digest:
        print(f"digest    {description.digest}")
    print(f"versions  gateway {description.gateway_version}, Triton {description.triton_version}")
    print(f"classes   {', '.join(description.classes) or 'none'}")
    print(f"formats   {', '.join(description.image_formats)}")
    for name, limit in description.limits.items():
        print(
            f"limit     {name} {limit:g}"
            if isinstance(limit, float)
            else f"limit     {name} {limit}"
        )


def _window(description: Description) -> str:
    if not description.spread:
        return "not declared, tiles only on request"
    factor = f"trained within a factor of {description.spread:g}"
    return f"{description.window} px, {factor}" if description.window else f"whole images, {factor}"
