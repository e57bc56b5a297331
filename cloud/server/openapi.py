"""The OpenAPI document of the REST front."""

from __future__ import annotations

from importlib import metadata
from typing import Any

__all__ = ["openapi"]

_ERRORS = {
    "400": "The request is wrong; the message says where.",
    "401": "A valid bearer token is needed.",
    "403": "The server does not let clients do that.",
    "404": "There is no such model or version.",
    "413": "The body is over the limit.",
    "500": "The model failed.",
    "429": "The caller asks more often than it may; Retry-After says when to come back.",
    "503": "No room, no time before the deadline, or the model does not answer; Retry-After says when to come back.",
    "504": "The time was up.",
}
_DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BF16", "BYTES"),
)
_PARAMETERS = {
    "type": "object",
    "additionalProperties": {"oneOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]},
}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {
            "type": "string",
            "enum": list(_DATATYPES),
        },
        "shape": {"type": "array", "items": {"type": "integer"}},
        "parameters": {**_PARAMETERS, "description": "`binary_data_size`: bytes of raw contents behind the JSON."},
        "data": {"type": "array", "items": {}, "description": "Row by row, flat or nested; BYTES as strings."},
    },
}
_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
_SCHEMAS: dict[str, Any] = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    "Tensor": _TENSOR,
    "InferenceRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {
                **_PARAMETERS,
                "description": "`timeout` (µs), `priority`, `edge_encoding`, `edge_key`, `binary_data_output`.",
            },
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "parameters": {**_PARAMETERS, "description": "`binary_data`, `classification`."},
                    },
                },
            },
        },
    },
    "InferenceResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {**_PARAMETERS, "description": "`edge_model_digest`: the model that answered."},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
}


def openapi() -> dict[str, Any]:
    """Return the document, OpenAPI 3.1."""
    paths: dict[str, Any] = {
        "/v2/health/live": _get("Whether the server runs.", "nothing"),
        "/v2/health/ready": _get("Whether requests are taken.", "nothing"),
        "/v2": _get("Name, version and extensions of the server."),
        "/v2/models/stats": _get("Statistics of all models."),
        "/v2/models/{model}/feedback": {"parameters": [_MODEL], "post": _feedback()},
        "/v2/repository/index": {"post": _index()},
        **{
            f"/v2/repository/models/{{model}}/{action}": {"parameters": [_MODEL], "post": _change(summary)}
            for action, summary in (
                ("load", "Load a model, or load it anew; where the server allows it."),
                ("unload", "Serve a model no longer; where the server allows it."),
            )
        },
        "/openapi.json": _get("This document."),
    }
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        given = [_MODEL, {**_MODEL, "name": "version"}] if "version" in path else [_MODEL]
        for suffix, entry in {
            "": _get("Tensors and properties of the model."),
            "/ready": _get("Whether the model answers.", "nothing"),
            "/config": _get("Its configuration, as Triton has it."),
            "/stats": _get("What was counted, as Triton has it."),
            "/infer": {"post": _infer()},
        }.items():
            paths[path + suffix] = {"parameters": given, **entry}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-sdk fallback server: Open Inference Protocol v2",
            "version": metadata.version("edge-sdk"),
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _get(summary: str, content: str = "json") -> dict[str, Any]:
    return {"get": _operation(summary, content)}


def _operation(summary: str, content: str = "json") -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Yes." if content == "nothing" else "Done."}
    if content == "json":
        done["content"] = {"application/json": {}}
    return {"summary": summary, "responses": {"200": done, **_errors("401", "403", "404", "429", "503")}}


def _index() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"ready": {"type": "boolean", "description": "Only those that answer."}}}
    said = _operation("Every version of every model, and its state.")
    said["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    said["responses"] |= _errors("400", "413")
    return said


def _change(summary: str) -> dict[str, Any]:
    said = _operation(summary)
    said["responses"] |= _errors("400", "413")
    return said


def _feedback() -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["version", "reward"],
        "properties": {
            "version": {"type": "string", "minLength": 1},
            "reward": {"type": "number", "minimum": 0, "maximum": 1},
            "decision_id": {"type": "string", "description": "Of the answer: what comes twice counts once."},
        },
        "additionalProperties": False,
    }
    said = _operation("Say how good an answer was, where a bandit chooses the version.")
    said["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    said["responses"] |= _errors("400", "413")
    return said


def _infer() -> dict[str, Any]:
    def both(name: str) -> dict[str, Any]:
        binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
        return {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}},
            "application/octet-stream": binary,
        }

    length = {"schema": {"type": "integer"}, "description": "Bytes of the JSON, where raw contents follow it."}
    return {
        "summary": "Run the model.",
        "parameters": [{"name": "Inference-Header-Content-Length", "in": "header", **length}],
        "requestBody": {"required": True, "content": both("InferenceRequest")},
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": {"Inference-Header-Content-Length": length},
                "content": both("InferenceResponse"),
            },
            **_errors(*_ERRORS),
        },
    }


def _errors(*statuses: str) -> dict[str, Any]:
    schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": _ERRORS[status], "content": schema} for status in statuses}
