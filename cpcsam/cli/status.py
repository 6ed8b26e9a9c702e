"""`cpcsam status`: the server's health, model and limits."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from cpcsam.cli.connection import Commands, add_connection, connect
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
    """Add the command."""
    parser = commands.add_parser(
        "status",
        help="show the server's health, model and limits",
        description="Show the server's health, model, classes and limits; fails if it is not well.",
        epilog=EXAMPLES,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_connection(parser)


def _run(args: argparse.Namespace) -> None:
    with connect(args) as client:
        told = client.describe()
        healthy = client.healthy()
    if args.json:
        known = asdict(told) | {"mask_formats": [form.name for form in told.mask_formats]}
        print(json.dumps({"address": args.address, "healthy": healthy, **known}, indent=2))
    else:
        _print(args.address, healthy, told)
    if not healthy:
        raise ServingError.of(
            "health", got="not serving", expected="serving", fix="see the gateway's log"
        )


def _print(address: str, healthy: bool, told: Description) -> None:
    print(f"address   {address}")
    print(f"health    {'serving' if healthy else 'not serving'}")
    model = f"{told.model_size}, {told.image_size} px"
    print(f"model     {told.model_name} {told.model_version} ({model})")
    if told.digest:
        print(f"digest    {told.digest}")
    print(f"versions  gateway {told.gateway_version}, Triton {told.triton_version}")
    print(f"classes   {', '.join(told.classes) or 'none'}")
    print(f"formats   {', '.join(told.image_formats)}")
    for name, limit in told.limits.items():
        print(
            f"limit     {name} {limit:g}"
            if isinstance(limit, float)
            else f"limit     {name} {limit}"
        )
