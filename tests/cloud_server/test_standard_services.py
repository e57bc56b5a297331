"""Health for load balancers and reflection for tools, as any gRPC server has them."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from edge_sdk.protocol.feedback import FEEDBACK
from edge_sdk.protocol.services import (
    HEALTH,
    REFLECTION,
    HealthCheckRequest,
    HealthCheckResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from outside.bundles import TinyBundle

PATIENT = 20.0
SERVICE = "inference.GRPCInferenceService"
SERVING, NOT_SERVING, UNKNOWN = (
    HealthCheckResponse.SERVING,
    HealthCheckResponse.NOT_SERVING,
    HealthCheckResponse.SERVICE_UNKNOWN,
)


@pytest.fixture
def channel(server: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server) as opened:
        yield opened


def check(channel: grpc.Channel, service: str) -> int:
    call = channel.unary_unary(f"/{HEALTH}/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString)
    return call(HealthCheckRequest(service=service), timeout=PATIENT, wait_for_ready=True).status


def watch(channel: grpc.Channel, service: str) -> grpc.Call:
    call = channel.unary_stream(
        f"/{HEALTH}/Watch", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    return call(HealthCheckRequest(service=service), timeout=PATIENT)


def reflect(channel: grpc.Channel, service: str, *requests: dict[str, object]) -> list:
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )
    return list(call((ServerReflectionRequest(**request) for request in requests), timeout=PATIENT))


def test_the_server_and_its_service_are_healthy(channel: grpc.Channel) -> None:
    assert check(channel, "") == check(channel, SERVICE) == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check(channel, "other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_who_watches_is_told_once_and_an_unknown_service_too(channel: grpc.Channel) -> None:
    for service, status in (("", SERVING), ("other", UNKNOWN)):
        watcher = watch(channel, service)
        assert next(watcher).status == status
        watcher.cancel()


def test_all_who_watch_hear_of_the_end_before_it_comes(service, tiny_edge_bundle: TinyBundle, grpc_front: str) -> None:
    process = service("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0")
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        watchers = [watch(channel, ""), watch(channel, SERVICE), watch(channel, "")]
        assert [next(watcher).status for watcher in watchers] == [SERVING] * 3
        watchers.pop(0).cancel()
        os.kill(process.process.pid, signal.SIGTERM)
        assert [next(watcher).status for watcher in watchers] == [NOT_SERVING] * 2
        assert process.process.wait(PATIENT) == 0
    assert process.stop() == 0
    assert process.errors == ""


def test_health_needs_no_token_and_reflection_does(
    service, tiny_edge_bundle: TinyBundle, tmp_path, grpc_front: str
) -> None:
    (tmp_path / "token").write_text("s3cret")
    options = ("--front", grpc_front, "--token-file", tmp_path / "token")
    process = service("serve", tiny_edge_bundle.path, "--grpc-port", "0", *options)
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        assert check(channel, "") == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            reflect(channel, REFLECTION[0], {"list_services": ""})
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        # a stream that sends nothing is refused at once, too
        silent = queue.Queue()
        call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter(silent.get, None), timeout=PATIENT)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        silent.put(None)


@pytest.mark.parametrize("service", REFLECTION)
def test_a_client_can_learn_the_whole_service_from_the_server(channel: grpc.Channel, service: str) -> None:
    listed, found, by_name, missing = reflect(
        channel,
        service,
        {"list_services": ""},
        {"file_containing_symbol": SERVICE},
        {"file_by_filename": "health.proto"},
        {"file_containing_symbol": "no.such.Thing"},
    )
    assert [entry.name for entry in listed.list_services_response.service] == [SERVICE, FEEDBACK, HEALTH, REFLECTION[0]]
    pool = descriptor_pool.DescriptorPool()
    for response in (found, by_name):
        for data in response.file_descriptor_response.file_descriptor_proto:
            pool.AddSerializedFile(data)
    methods = {method.name for method in pool.FindServiceByName(SERVICE).methods}
    assert {"ModelInfer", "ModelStreamInfer", "ModelConfig", "RepositoryIndex"} <= methods
    assert pool.FindServiceByName(HEALTH).methods_by_name["Watch"].server_streaming
    assert missing.error_response.error_code == 5
    assert missing.original_request.file_containing_symbol == "no.such.Thing"


def test_grpcs_own_messages_of_health_agree(channel: grpc.Channel) -> None:
    file = descriptor_pb2.FileDescriptorProto()
    HealthCheckResponse.DESCRIPTOR.file.CopyToProto(file)
    assert [value.name for value in file.message_type[1].enum_type[0].value] == [
        "UNKNOWN",
        "SERVING",
        "NOT_SERVING",
        "SERVICE_UNKNOWN",
    ]
    # the wire of `status: SERVING`, as every load balancer expects it
    raw = channel.unary_unary(f"/{HEALTH}/Check")(b"", timeout=PATIENT)
    assert raw == b"\x08\x01"
