"""Requests about one input each, and how several that are alike are put together as the rows of one.

Most of what is sent is the same for many inputs. That is made once, as a `Head`; a `Draft` is what is an input's
own, and becomes a whole message only where it travels by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from edge_sdk.client.payload import Contract
from edge_sdk.protocol import ENCODING_PARAMETER, Encoding, add_input, messages, set_parameter, to_raw
from edge_sdk.protocol.names import DECISION_PARAMETER

__all__ = ["Draft", "Head", "Kind", "Message", "merge"]

Kind = tuple[Any, ...]
"""What requests have in common that can be the rows of one."""

_MOST_FORMS = 64


class Message:
    """What is sent.

    Parameters
    ----------
    request
        The ``ModelInferRequest``.
    seen
        What the model sees of an input in it; see `edge_sdk.encodings`.
    """

    __slots__ = ("_request", "seen")

    def __init__(self, request: Any, seen: str = "") -> None:
        self._request, self.seen = request, seen

    @property
    def request(self) -> Any:
        """The ``ModelInferRequest``."""
        return self._request

    @property
    def size(self) -> int:
        """Bytes of it."""
        return int(self._request.ByteSize())

    @property
    def kind(self) -> Kind:
        """What it has in common with those that it can travel with."""
        request = self._request
        tensor = request.inputs[0]
        parameters = sorted(
            (name, b"" if name == DECISION_PARAMETER else value.SerializeToString())
            for name, value in request.parameters.items()
        )
        return tensor.datatype, *tensor.shape, *parameters

    @property
    def bare(self) -> Any:
        """The request without contents, not to be changed."""
        request = messages.ModelInferRequest()
        request.CopyFrom(self._request)
        del request.raw_input_contents[:]
        return request

    @property
    def is_processed(self) -> bool:
        """Whether its input was brought here into a form that is one model's own."""
        parameters = self.bare.parameters
        name = parameters[ENCODING_PARAMETER].string_param if ENCODING_PARAMETER in parameters else "tensor"
        return name in ("resized", "tensor")

    @property
    def raw(self) -> bytes:
        """The contents of its only tensor."""
        return bytes(self._request.raw_input_contents[0])

    @property
    def decision(self) -> str:
        """The name of its input; empty where it has none."""
        parameters = self._request.parameters
        return str(parameters[DECISION_PARAMETER].string_param) if DECISION_PARAMETER in parameters else ""

    def set(self, name: str, value: int | str) -> None:
        """Set a parameter."""
        set_parameter(self._request.parameters, name, value)

    def stacks(self, contract: Contract) -> bool:
        """Tell whether a server takes several such requests as the rows of one."""
        request = self._request
        return len(request.inputs) == len(request.raw_input_contents) == 1 and _stacks(request, contract)


class Head:
    """What all requests have in common about inputs that are alike.

    Parameters
    ----------
    contract
        What the server says of its model.
    tensor
        One of the inputs, in the encoding.
    encoding
        In which they travel.

    Attributes
    ----------
    stacks
        Whether the server takes several of them as the rows of one.
    """

    __slots__ = ("_alike", "_forms", "_request", "stacks")

    def __init__(self, contract: Contract, tensor: NDArray[Any], encoding: Encoding) -> None:
        self._request = messages.ModelInferRequest(model_name=contract.model)
        add_input(self._request, contract.input, tensor)
        del self._request.raw_input_contents[:]
        if encoding != "tensor":
            set_parameter(self._request.parameters, ENCODING_PARAMETER, encoding)
        self.stacks = _stacks(self._request, contract)
        self._alike = tensor.shape, tensor.dtype
        self._forms: dict[Kind, tuple[Any, int]] = {}

    def fits(self, tensor: NDArray[Any]) -> bool:
        """Tell whether it is that of a request about this tensor, too."""
        return (tensor.shape, tensor.dtype) == self._alike

    def form(self, parameters: dict[str, int | str]) -> tuple[Any, int]:
        """Return a request with parameters like these and without contents, not to be changed, and its size."""
        key = tuple([(name, len(value) if isinstance(value, str) else value) for name, value in parameters.items()])
        known = self._forms.get(key)
        if known is None:
            request = messages.ModelInferRequest()
            request.CopyFrom(self._request)
            for name, value in parameters.items():
                set_parameter(request.parameters, name, value)
            if len(self._forms) >= _MOST_FORMS:
                self._forms.clear()
            known = self._forms[key] = request, request.ByteSize()
        return known


class Draft(Message):
    """A request about one input, made from a head.

    Parameters
    ----------
    head
        Of those like it.
    tensor
        The input; its bytes are copied.
    seen
        As of `Message`.
    """

    __slots__ = ("_form", "_head", "_parameters", "_raw")

    def __init__(self, head: Head, tensor: NDArray[Any], seen: str) -> None:
        super().__init__(None, seen)
        self._head, self._raw = head, to_raw(tensor)
        self._parameters: dict[str, int | str] = {}
        self._form: tuple[Any, int] | None = None

    @property
    def request(self) -> Any:
        """The ``ModelInferRequest``, made when it is first wanted."""
        if self._request is None:
            request = messages.ModelInferRequest()
            request.CopyFrom(self.bare)
            for name, value in self._parameters.items():
                set_parameter(request.parameters, name, value)
            request.raw_input_contents.append(self._raw)
            self._request = request
        return self._request

    @property
    def size(self) -> int:
        """Bytes of it."""
        self._form = self._form or self._head.form(self._parameters)
        n = len(self._raw)
        return self._form[1] + 1 + (max(n.bit_length(), 1) + 6) // 7 + n  # the field's number, its length, and itself

    @property
    def kind(self) -> Kind:
        """See `Message.kind`."""
        named = [(name, name == DECISION_PARAMETER or value) for name, value in self._parameters.items()]
        return self._head, *named

    @property
    def bare(self) -> Any:
        """The request without contents, and of strings the lengths alone; not to be changed."""
        self._form = self._form or self._head.form(self._parameters)
        return self._form[0]

    @property
    def raw(self) -> bytes:
        """The contents of its only tensor."""
        return self._raw

    @property
    def decision(self) -> str:
        """See `Message.decision`."""
        return str(self._parameters.get(DECISION_PARAMETER, ""))

    def set(self, name: str, value: int | str) -> None:
        """Set a parameter."""
        self._parameters[name] = value
        self._form = self._request = None

    def stacks(self, contract: Contract) -> bool:
        """See `Message.stacks`."""
        return self._head.stacks


def merge(rows: Sequence[Message]) -> Any:
    """Return one ``ModelInferRequest`` whose rows are those of several of a kind."""
    first = rows[0]
    if len(rows) == 1:
        return first.request
    merged = messages.ModelInferRequest()
    merged.CopyFrom(first.bare)
    if DECISION_PARAMETER in merged.parameters:  # one a row, in their order
        merged.parameters[DECISION_PARAMETER].string_param = ",".join([row.decision for row in rows])
    tensor = merged.inputs[0]
    # an input as captured has no axis that counts rows, and gets one; files and processed tensors have it
    has_axis = tensor.datatype == "BYTES" or ENCODING_PARAMETER not in merged.parameters
    tail = tensor.shape[1:] if has_axis else tensor.shape[:]
    tensor.shape[:] = [len(rows), *tail]
    merged.raw_input_contents.append(b"".join([row.raw for row in rows]))
    return merged


def _stacks(request: Any, contract: Contract) -> bool:
    if ENCODING_PARAMETER in request.parameters:
        return True
    shape = request.inputs[0].shape
    return contract.shape[:1] == (-1,) and len(shape) == len(contract.shape) and shape[0] == 1
