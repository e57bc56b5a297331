"""Messages of the services that any gRPC server has: health and reflection.

They are in the pool of `edge_sdk.protocol.messages`, so that reflection tells of all of them. Our
own, because the packages ``grpcio-health-checking`` and ``grpcio-reflection`` of grpcio's own
version need a protobuf that TensorFlow and tritonclient do not take.
"""

from __future__ import annotations

from edge_sdk.protocol.messages import add_file, message

__all__ = [
    "HEALTH",
    "REFLECTION",
    "HealthCheckRequest",
    "HealthCheckResponse",
    "ServerReflectionRequest",
    "ServerReflectionResponse",
]

HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Names of one service: older tools ask for the second."""

add_file("health.desc")
add_file("reflection.desc")

HealthCheckRequest = message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = message("grpc.health.v1.HealthCheckResponse")
ServerReflectionRequest = message("grpc.reflection.v1.ServerReflectionRequest")
ServerReflectionResponse = message("grpc.reflection.v1.ServerReflectionResponse")
