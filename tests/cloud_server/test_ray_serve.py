"""A bundle on Ray Serve, asked by an unmodified client. Run by `make test-slow` where Ray is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import edge_sdk
from edge_sdk.cloud.ray_serve import application
from edge_sdk.errors import InputError
from outside.bundles import TinyBundle
from outside.network import free_port
from outside.services import Service

PROGRAM = """
import logging, sys, threading
import ray
from ray import serve
from edge_sdk.cloud.ray_serve import application

path, port = sys.argv[1:]
ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
serve.run(application({"path": path}))
print(f"ready http=127.0.0.1:{port}", flush=True)
threading.Event().wait()
"""


@pytest.mark.slow
def test_an_unmodified_client_gets_the_bundle_s_answers(tiny_edge_bundle: TinyBundle) -> None:
    pytest.importorskip("ray", reason="needs edge-sdk[ray]")
    triton = pytest.importorskip("tritonclient.http")
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        x = np.concatenate([model.processor(image) for image in tiny_edge_bundle.images[:5]])
        expected = model.infer_tensor(x)
    program = [sys.executable, "-P", "-c", PROGRAM]
    with Service(tiny_edge_bundle.path, free_port(), program=program, timeout=150) as process:
        with triton.InferenceServerClient(process.ready["http"], network_timeout=60, connection_timeout=60) as client:
            assert client.is_server_ready()
            assert client.is_model_ready("tiny")
            assert not client.is_model_ready("other")
            assert client.get_model_metadata("tiny")["versions"] == ["1.0.0"]
            tensor = triton.InferInput("image", list(x.shape), "FP32")
            for binary in (True, False):
                tensor.set_data_from_numpy(x, binary_data=binary)
                outputs = [triton.InferRequestedOutput("logits", binary_data=binary)]
                logits = client.infer("tiny", [tensor], outputs=outputs).as_numpy("logits")
                weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
                assert weights / weights.sum(axis=-1, keepdims=True) == pytest.approx(expected, abs=1e-6)
            with pytest.raises(Exception, match="unknown model"):
                client.infer("other", [tensor])
        process.kill()


def test_what_an_application_does_not_take_is_refused(tiny_edge_bundle: TinyBundle) -> None:
    for args in ({}, {"path": str(tiny_edge_bundle.path), "other": "1"}, {"path": "x", "replicas": "many"}):
        with pytest.raises(InputError, match="path=PATH"):
            application(args)
