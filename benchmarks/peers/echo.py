"""A bare grpc.aio server: as many bytes as the model would give, and nothing is parsed; or each call is refused.

With a number, gRPC's library cancels calls where so many wait already. With models, each of a file's name is run for
the requests of its size, in buffers.

python echo.py REQUEST-BYTES:RESPONSE-BYTES,… [WAITING]
python echo.py run REQUEST-BYTES:MODEL.onnx… [WAITING]
python echo.py refuse
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import grpc
import uvloop

HOW = sys.argv[1]
PLAIN = HOW not in ("refuse", "run")
SIZES = {size: bytes(int(n)) for size, n in (pair.split(":") for pair in HOW.split(",") if PLAIN)}
OPTIONS = [("grpc.max_receive_message_length", -1)]
MODELS = sys.argv[2:]
if MODELS and MODELS[-1].isdigit():
    MOST = int(MODELS.pop())
    OPTIONS += [("grpc.server.max_pending_requests", MOST), ("grpc.server.max_pending_requests_hard_limit", MOST + 1)]


async def handle(data: bytes, _: object) -> bytes:
    """Return a response as large as that of a model."""
    return SIZES.get(str(len(data)), b"")


def runner_of(path: str) -> Callable[[bytes], bytes]:
    """Return what runs a model of one input and one output on the last bytes of a request."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (tensor,), binding = session.get_inputs(), session.io_binding()
    x = np.zeros((1, *tensor.shape[1:]), np.float32)
    y = session.run(None, {tensor.name: x})[0]
    binding.bind_input(tensor.name, "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    binding.bind_output(session.get_outputs()[0].name, "cpu", 0, y.dtype, y.shape, y.ctypes.data)
    into, out, head = memoryview(x.reshape(-1).view(np.uint8)), memoryview(y.reshape(-1).view(np.uint8)), bytes(90)

    def run(data: bytes) -> bytes:
        into[:] = data[-len(into) :]
        session.run_with_iobinding(binding)
        return b"".join((head, out))

    return run


RUNS: dict[str, Any] = {}
if HOW == "run":
    RUNS = {size: runner_of(path) for size, path in (pair.split(":", 1) for pair in MODELS)}


async def handle_by_model(data: bytes, _: object) -> bytes:
    """Return what the model says."""
    answer: bytes = RUNS[str(len(data))](data)
    return answer


async def refuse(requests: object, context: grpc.aio.ServicerContext) -> None:
    """End a call before its message is read, which costs least."""
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "refused")


async def main() -> None:
    """Serve until ended."""
    server = grpc.aio.server(options=OPTIONS)
    refusing, answering = grpc.stream_unary_rpc_method_handler(refuse), grpc.unary_unary_rpc_method_handler(handle)
    running = grpc.unary_unary_rpc_method_handler(handle_by_model)
    methods = {"ModelInfer": {"refuse": refusing, "run": running}.get(HOW, answering)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
