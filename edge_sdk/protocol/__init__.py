"""The wire: Open Inference Protocol v2 messages, tensors on them, and our parameter names.

Nothing here opens a connection. ``docs/protocol.md`` says what the names mean.
"""

from __future__ import annotations

from edge_sdk.protocol import messages
from edge_sdk.protocol.names import (
    ENCODING_PARAMETER,
    ENCODINGS,
    MAX_MESSAGE_BYTES,
    PARAMETERS_PREFIX,
    Encoding,
)
from edge_sdk.protocol.tensors import (
    add_input,
    add_output,
    datatype_of,
    dtype_of,
    from_raw,
    read_inputs,
    read_outputs,
    read_parameters,
    set_parameter,
    to_raw,
)

__all__ = [
    "ENCODINGS",
    "ENCODING_PARAMETER",
    "MAX_MESSAGE_BYTES",
    "PARAMETERS_PREFIX",
    "Encoding",
    "add_input",
    "add_output",
    "datatype_of",
    "dtype_of",
    "from_raw",
    "messages",
    "read_inputs",
    "read_outputs",
    "read_parameters",
    "set_parameter",
    "to_raw",
]
