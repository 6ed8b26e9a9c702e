#!/usr/bin/env bash
# grpcio 1.85.1, asyncio: a server ends a bidirectional stream with an error, while the client sends messages.
# Expected: the client's call fails with the code and the message of the server, as in the blocking client.
# Seen: most calls of the asyncio client fail with INTERNAL, "Internal error from Core", and the server's
#   code, message and metadata are gone; the blocking client has them all.
# For users: quotas, revoked tokens and refused requests of a stream look like faults of the service, and
#   are retried or reported as such. A callback of `add_done_callback` still finds the server's status.
#   Known upstream: github.com/grpc/grpc/issues/36066.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grpcio==1.85.1
"$folder/venv/bin/python" - <<'PROGRAM'
import asyncio
import sys
from collections import Counter

import grpc

CALLS, MESSAGES, MESSAGE = 100, 64, bytes(1 << 16)


async def refuse(requests, context):
    """Refuse a stream at its first message."""
    await anext(requests)
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")


async def by_asyncio(address):
    async def messages():
        for _ in range(MESSAGES):
            yield MESSAGE

    noted = Counter()

    def note(call):
        try:  # the status is there, so that nothing waits
            call.code().send(None)
        except StopIteration as end:
            noted[end.value.name] += 1

    seen = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        for _ in range(CALLS):
            call = channel.stream_stream("/a/B")(messages())
            call.add_done_callback(note)
            try:
                async for _ in call:
                    pass
            except grpc.aio.AioRpcError as error:
                seen[f"{error.code().name}: {error.details()}"] += 1
    return seen, noted


def by_threads(address):
    seen = Counter()
    with grpc.insecure_channel(address) as channel:
        for _ in range(CALLS):
            try:
                list(channel.stream_stream("/a/B")(iter([MESSAGE] * MESSAGES)))
            except grpc.RpcError as error:
                seen[f"{error.code().name}: {error.details()}"] += 1
    return seen


async def main():
    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a", {"B": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    address = f"127.0.0.1:{port}"
    asynchronous, noted = await by_asyncio(address)
    blocking = await asyncio.to_thread(by_threads, address)
    await server.stop(None)
    print(f"asyncio client: {dict(asynchronous)}")
    print(f"  first status of a done callback: {dict(noted)}")
    print(f"blocking client: {dict(blocking)}")
    lost = asynchronous["INTERNAL: Internal error from Core"]
    right = {"RESOURCE_EXHAUSTED: too many": CALLS}
    sys.exit(not (lost > CALLS // 4 and blocking == right and noted["RESOURCE_EXHAUSTED"] > lost))


asyncio.run(main())
PROGRAM
