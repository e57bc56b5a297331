"""PyTriton with the models of a folder in ONNX Runtime; runs in an environment with nvidia-pytriton and onnxruntime.

python pytriton_onnx.py FOLDER GRPC-PORT HTTP-PORT METRICS-PORT
"""

import os
import signal
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

FOLDER, (GRPC, HTTP, METRICS) = Path(sys.argv[1]), map(int, sys.argv[2:])
MAX_BATCH = 32


def bind(triton: Triton, file: Path) -> None:
    """Let a model answer by a Python callable, as PyTriton's examples do: in batches of what waits."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(file), options)

    @batch
    def infer(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"y": session.run(["y"], {"x": x})[0]}

    triton.bind(
        model_name=file.stem,
        infer_func=infer,
        inputs=[Tensor(name="x", dtype=np.float32, shape=tuple(session.get_inputs()[0].shape[1:]))],
        outputs=[Tensor(name="y", dtype=np.float32, shape=tuple(session.get_outputs()[0].shape[1:]))],
        config=ModelConfig(max_batch_size=MAX_BATCH, batcher=DynamicBatcher()),
    )


def main() -> None:
    """Serve until ended."""
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    # Triton's log goes to standard output, and could cut the line that says where we are
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # the process of its backend would take the system's libpython, and this interpreter's standard library
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=GRPC,
        http_address="127.0.0.1",
        http_port=HTTP,
        metrics_address="127.0.0.1",
        metrics_port=METRICS,
    )
    with Triton(config=config) as triton:
        for file in sorted(FOLDER.glob("*.onnx")):
            bind(triton, file)
        triton.run()
        print(f"ready grpc=127.0.0.1:{GRPC}", file=said, flush=True)
        end.wait()


main()
