"""SplitModel: the first part of a model on this device, the second in the cloud."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_sdk.client.cloud import Cloud
from edge_sdk.client.escalation import CloudLink
from edge_sdk.client.outcomes import Outcome
from edge_sdk.client.payload import Contract
from edge_sdk.client.sending import Reply
from edge_sdk.errors import EscalationError, InputError, ModelError
from edge_sdk.inputs import Input, as_input
from edge_sdk.model import EdgeModel, new_decision_id
from edge_sdk.protocol import MAX_MESSAGE_BYTES, add_input, datatype_of, messages
from edge_sdk.protocol.names import DIGEST_PARAMETER
from edge_sdk.types import Prediction, Tensors, Timing

__all__ = ["SplitModel"]

_MARGIN = 0.005  # seconds kept back from a deadline to come back to the caller in time


class SplitModel:
    """A model in two parts, joined by one tensor. Thread-safe.

    The head's first output is what crosses; the server's model must take it, by that name. Every call
    sends it: what a layer computes of an input can tell much of that input, and no privacy rules apply.

    Parameters
    ----------
    head
        Bundle of the first part, of the task ``embedding``; closed with this.
    cloud
        ``host:port`` or ``host:port/model`` of a server of the second part, several of them, or an
        `edge_sdk.client.Cloud`, whose encoding makes no difference here.
    deadline
        Seconds from the start of a call to its answer. None waits for the cloud; 0 never asks it. What the
        fallback needs is kept back; the head is not cut short.
    fallback
        Answers where the cloud does not; closed with this. It must have the outputs of the parts
        together, such as the whole model has, and then also says what they mean: answers are of its task.
    tail_digest
        SHA-256 (``sha256:…``) of the second part's file; answers of another are not used. By default any
        that fits.

    Raises
    ------
    InputError
        An option is out of range, or the head is of another task.
    """

    def __init__(
        self,
        head: EdgeModel,
        cloud: str | Sequence[str] | Cloud,
        *,
        deadline: float | None = 0.150,
        fallback: EdgeModel | None = None,
        tail_digest: str | None = None,
    ) -> None:
        head.manifest.require_task("embedding", "the first part of a split model")
        if deadline is not None and not deadline >= 0:
            raise InputError(f"deadline is {deadline}; it should be seconds, 0 or more, or None")
        if fallback is not None and fallback.processor.spec.takes != head.processor.spec.takes:
            raise InputError("the fallback takes other inputs than the head: their processing differs")
        self._head, self._fallback, self._deadline, self._digest = head, fallback, deadline, tail_digest
        self._names = [output.name for output in head.manifest.artifacts[0].outputs]
        self._lock = threading.Lock()
        self._reserve = 0.0 if fallback is None else fallback.warmup(3) / 1e3
        self._link = CloudLink(Cloud.of(cloud))

    def predict(self, value: Input) -> Any:
        """Answer one input.

        Returns
        -------
        Tensors
            The model's outputs by name, from the ``cloud``; where there is a fallback, an answer of its task.
            ``reason`` is ``forced``, or why the fallback answers. Never ``certified``.

        Raises
        ------
        InputError
            The input is not one that the head can take.
        EscalationError
            The cloud gave no usable answer, and there is no fallback.
        ModelClosedError
            This has been closed.
        """
        started = time.perf_counter()
        array = as_input(self._head.processor.spec, value)
        processed = self._head.processor(array)
        ready = time.perf_counter()
        results = dict(zip(self._names, self._head.run(processed), strict=True))
        pre_ms, infer_ms = (ready - started) * 1e3, (time.perf_counter() - ready) * 1e3
        outcome = self._ask(results, started)
        detail = outcome.detail
        if outcome.outputs is not None:
            timing = Timing(pre_ms, infer_ms, cloud_ms=outcome.elapsed_ms)
            outputs = {**dict(list(results.items())[1:]), **outcome.outputs}
            try:
                return self._answer(outputs, outcome, array.shape, timing, started)
            except ModelError as error:
                outcome, detail = replace(outcome, reason="rejected"), str(error)
        if self._fallback is None:
            raise EscalationError(f"the cloud gave no usable answer ({outcome.reason}): {detail}")
        return self._fall_back(self._fallback, array, outcome, started)

    def close(self) -> None:
        """Release the models and the connection. Closing twice is no error."""
        self._head.close()
        if self._fallback is not None:
            self._fallback.close()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, results: Mapping[str, NDArray[Any]], started: float) -> Outcome:
        name = self._names[0]
        tensor = results[name]

        def make(contract: Contract) -> Any:
            fits = len(contract.shape) == tensor.ndim and all(
                want in (-1, have) for want, have in zip(contract.shape, tensor.shape, strict=True)
            )
            if contract.input != name or contract.datatype != datatype_of(tensor.dtype) or not fits:
                self._link.forget()  # the server may be given the right model later
                raise InputError(
                    f"the cloud's model {contract.model} takes {contract.input}, {contract.datatype}"
                    f"{list(contract.shape)}; the head gives {name}, {datatype_of(tensor.dtype)}{list(tensor.shape)}"
                )
            request = messages.ModelInferRequest(model_name=contract.model)
            add_input(request, name, tensor)
            if request.ByteSize() > MAX_MESSAGE_BYTES:
                raise InputError(f"{name} has {tensor.nbytes} bytes; a message has at most {MAX_MESSAGE_BYTES}")
            return request

        def read(reply: Reply) -> Outcome:
            digest = str(reply.parameters().get(DIGEST_PARAMETER, ""))
            if digest != (self._digest or reply.contract.digest or ""):
                self._link.forget()
                raise InputError(f"the cloud's model {reply.contract.model} is not the second part of this head")
            return Outcome(None, "escalated", digest=digest, bytes_sent=reply.size, outputs=reply.outputs())

        left = None if self._deadline is None else max(0.0, self._deadline - _MARGIN - self._reserve)
        ends = None if left is None else started + left
        return self._link.exchange(make, read, ends).wait()

    def _answer(
        self,
        outputs: Mapping[str, NDArray[Any]],
        outcome: Outcome,
        shape: tuple[int, ...],
        timing: Timing,
        started: float,
    ) -> Prediction:
        common: dict[str, Any] = {"source": "cloud", "model_digest": outcome.digest}
        if self._fallback is not None:
            wanted = [spec.name for spec in self._fallback.manifest.artifacts[0].outputs]
            if set(wanted) != set(outputs):
                raise ModelError(f"the parts give {', '.join(outputs)}, and the fallback {', '.join(wanted)}")
            scored = self._fallback.read([outputs[name] for name in wanted], shape)
            answer: Prediction = self._fallback.answer(scored, None, reason="forced", certified=False, started=started)
            return replace(answer, timing=_timed(timing, started), **common)
        values = {}
        for name, array in outputs.items():
            if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
                raise ModelError(f"output {name} holds something that is no number")
            row = array[0] if array.shape[:1] == (1,) else array
            values[name] = row.astype(np.float32)
            values[name].setflags(write=False)
        return Tensors(
            outputs=MappingProxyType(values),
            reason="forced",
            certified=False,
            timing=_timed(timing, started),
            decision_id=new_decision_id(),
            **common,
        )

    def _fall_back(self, fallback: EdgeModel, value: NDArray[Any], outcome: Outcome, started: float) -> Prediction:
        begun = time.perf_counter()
        scored = fallback.infer(value)
        answer: Prediction = fallback.answer(
            scored, None, reason=outcome.reason, certified=False, started=started, cloud_ms=outcome.elapsed_ms
        )
        with self._lock:  # what it needs moves with the load of the device
            self._reserve += 0.1 * (time.perf_counter() - begun - self._reserve)
        return answer


def _timed(timing: Timing, started: float) -> Timing:
    return timing._replace(total_ms=(time.perf_counter() - started) * 1e3)
