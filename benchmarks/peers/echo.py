"""A bare grpc.aio server: as many bytes as the model would give, and nothing is parsed; or each call is refused.

python echo.py REQUEST-BYTES:RESPONSE-BYTES,…
python echo.py refuse
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import uvloop

REFUSES = sys.argv[1] == "refuse"
SIZES = {size: bytes(int(n)) for size, n in (pair.split(":") for pair in sys.argv[1].split(",") if not REFUSES)}


async def handle(data: bytes, _: object) -> bytes:
    """Return a response as large as that of a model."""
    return SIZES.get(str(len(data)), b"")


async def refuse(requests: object, context: grpc.aio.ServicerContext) -> None:
    """End a call before its message is read, which costs least."""
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "refused")


async def main() -> None:
    """Serve until ended."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    refusing, answering = grpc.stream_unary_rpc_method_handler(refuse), grpc.unary_unary_rpc_method_handler(handle)
    methods = {"ModelInfer": refusing if REFUSES else answering}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
