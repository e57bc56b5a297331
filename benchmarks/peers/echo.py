"""A bare grpc.aio server: as many bytes as the model would give, and nothing is parsed.

python echo.py REQUEST-BYTES:RESPONSE-BYTES,…
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import uvloop

SIZES = {size: bytes(int(n)) for size, n in (pair.split(":") for pair in sys.argv[1].split(","))}


async def handle(data: bytes, _: object) -> bytes:
    """Return a response as large as that of a model."""
    return SIZES.get(str(len(data)), b"")


async def main() -> None:
    """Serve until ended."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
