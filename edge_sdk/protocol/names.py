"""Names that edge-sdk adds to the Open Inference Protocol, and the limits it sets.

Every name of ours begins with ``edge_``; servers and clients that do not know them ignore them.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "CACHED_PARAMETER",
    "CLASSIFICATION_PARAMETER",
    "DECISION_PARAMETER",
    "DIGEST_PARAMETER",
    "DIGEST_PROPERTY",
    "ENCODINGS",
    "ENCODINGS_PROPERTY",
    "ENCODING_PARAMETER",
    "KEY_PARAMETER",
    "LABELS_PROPERTY",
    "MAX_IMAGE_PIXELS",
    "MAX_ITEMS",
    "MAX_MESSAGE_BYTES",
    "OUTPUTS_PROPERTY",
    "PARAMETERS_PREFIX",
    "PRIORITY_PARAMETER",
    "PROCESSING_PROPERTY",
    "PUSHBACK_PARAMETER",
    "QUANTIZATION_PROPERTY",
    "SERVICE",
    "STATUS_PARAMETER",
    "TASK_PROPERTY",
    "TIMEOUT_PARAMETER",
    "Encoding",
]

SERVICE = "inference.GRPCInferenceService"

Encoding = Literal["captured", "jpeg", "resized", "tensor"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

PARAMETERS_PREFIX = "edge_"

# request parameters
DECISION_PARAMETER = "edge_decision_id"  # string: of what may come again, as the device names it
ENCODING_PARAMETER = "edge_encoding"  # string: one of ENCODINGS; "tensor" where absent
KEY_PARAMETER = "edge_key"  # string: which version answers hangs on it, where versions share the requests
PRIORITY_PARAMETER = "priority"  # int64, 1 goes first; the protocol's own name
TIMEOUT_PARAMETER = "timeout"  # int64, microseconds; the protocol's own name

# parameter of a requested output
CLASSIFICATION_PARAMETER = "classification"  # int64: so many of the highest classes instead; the protocol's own name

# response parameters
CACHED_PARAMETER = "edge_cached"  # bool, true: an equal request was answered so before; else absent
DIGEST_PARAMETER = "edge_model_digest"  # string: "sha256:…" of the model that answered

# parameters of a response within a stream that tells of an error
PUSHBACK_PARAMETER = "edge_retry_pushback_ms"  # int64: when to ask again; else ModelInfer's trailing metadata
STATUS_PARAMETER = "edge_status"  # string: the gRPC status that ModelInfer would have ended with

# properties of ModelMetadataResponse
DIGEST_PROPERTY = "edge_model_digest"
ENCODINGS_PROPERTY = "edge_encodings"  # comma-separated
LABELS_PROPERTY = "edge_labels"  # JSON list of strings
OUTPUTS_PROPERTY = "edge_outputs"  # "logits" or "probabilities"
QUANTIZATION_PROPERTY = "edge_output_quantization"  # JSON: {"scale", "zero_point"} of a quantized output
TASK_PROPERTY = "edge_task"  # "classification", "detection", "regression" or "embedding"
PROCESSING_PROPERTY = "edge_processing"  # JSON of the processing specification

MAX_MESSAGE_BYTES = 16 * 2**20
MAX_IMAGE_PIXELS = 2**24
MAX_ITEMS = 256  # images, or tensors along the first axis, in one request
