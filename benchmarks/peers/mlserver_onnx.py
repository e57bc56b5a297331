"""MLServer with the models of a folder in ONNX Runtime; runs in an environment with mlserver and onnxruntime.

python mlserver_onnx.py FOLDER GRPC-PORT HTTP-PORT METRICS-PORT
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from mlserver import MLModel, MLServer, ModelSettings, Settings, types
from mlserver.codecs import NumpyCodec

FOLDER, (GRPC, HTTP, METRICS) = Path(sys.argv[1]), map(int, sys.argv[2:])
NAMES = sorted(file.stem for file in FOLDER.glob("*.onnx"))


class Onnx(MLModel):
    """A model file of the folder."""

    async def load(self) -> bool:
        """Open the session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(FOLDER / f"{self.name}.onnx"), options)
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Run it."""
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        y = self._session.run(None, {"x": x})[0]
        return types.InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])


async def main() -> None:
    """Serve until ended."""
    server = MLServer(
        Settings(
            host="127.0.0.1",
            grpc_port=GRPC,
            http_port=HTTP,
            metrics_port=METRICS,
            parallel_workers=0,
            debug=False,
            grpc_max_message_length=2**28,
        )
    )
    models = [ModelSettings(name=name, implementation=Onnx) for name in NAMES]
    print(f"ready grpc=127.0.0.1:{GRPC}", flush=True)
    await server.start(models)


asyncio.run(main())
