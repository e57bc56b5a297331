"""How many connections there may be, and what becomes of those whose TLS handshake does not end."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import time
from contextlib import ExitStack, suppress

import grpc

from edge_sdk.cloud.server.entrance import Entrance, Visitors
from edge_sdk.cloud.server.listening import open_socket
from edge_sdk.protocol import messages
from outside.bundles import TinyBundle
from outside.certificates import Certificates
from outside.frames import begun_infer

PATIENT = 20.0
LIVE = "/inference.GRPCInferenceService/ServerLive"


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENT)


def is_live(address: str, credentials: grpc.ChannelCredentials | None = None) -> str:
    """Return how a call over a connection of its own ends."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.insecure_channel(address, own)
        if credentials is None
        else grpc.secure_channel(address, credentials, [*own, ("grpc.ssl_target_name_override", "localhost")])
    )
    with channel:
        try:
            said = channel.unary_unary(LIVE)(messages.METHODS["ServerLive"][0]().SerializeToString(), timeout=PATIENT)
        except grpc.RpcError as error:
            return error.code().name
        return "OK" if said == b"\x08\x01" else "?"


def until(happens, *arguments: object) -> None:
    end = time.monotonic() + PATIENT
    while not happens(*arguments):
        assert time.monotonic() < end
        time.sleep(0.02)


def said_by(connection: socket.socket) -> bytes:
    said = b""
    while more := connection.recv(65_536):
        said += more
    return said


def metrics(address: str) -> dict[str, float]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
    connection.request("GET", "/metrics")
    lines = [line.rpartition(" ") for line in connection.getresponse().read().decode().splitlines()]
    connection.close()
    return {name: float(value) for name, _, value in lines if not name.startswith("#")}


def test_more_connections_than_there_may_be_are_turned_away_and_those_that_are_there_go_on(
    service, tiny_edge_bundle: TinyBundle, grpc_front: str
) -> None:
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    server = service("serve", tiny_edge_bundle.path, *ports, "--front", grpc_front, "--max-connections", "6")
    address, own = server.ready["grpc"], [("grpc.use_local_subchannel_pool", 1)]
    with ExitStack() as stack:
        first = stack.enter_context(grpc.insecure_channel(address, own)).unary_unary(LIVE)
        assert first(b"", timeout=PATIENT) == b"\x08\x01"
        crowd = [stack.enter_context(connect(address)) for _ in range(5)]
        for one in crowd:
            one.sendall(begun_infer("here"))
            assert one.recv(9)
        assert is_live(address) == "UNAVAILABLE"
        if grpc_front == "fast":
            said = said_by(stack.enter_context(connect(address)))
            assert said.endswith(b"\0\0\0\x0btoo many connections are open"), "and the code that asks to be calm"
            assert metrics(server.ready["metrics"])['edge_connections{front="grpc"}'] == 6
            assert metrics(server.ready["metrics"])['edge_connections_refused_total{front="grpc"}'] >= 2
            assert server.errors.count("--max-connections") == 1
        assert first(b"", timeout=PATIENT) == b"\x08\x01"
        crowd.pop().close()
        until(lambda: is_live(address) == "OK")
        web = [stack.enter_context(connect(server.ready["http"])) for _ in range(7)]
        assert said_by(web[-1]).startswith(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n")
        web[0].sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
        assert web[0].recv(12) == b"HTTP/1.1 200"
    assert server.stop() == 0


def test_one_connection_is_counted_once_while_it_is_made() -> None:
    async def story() -> None:
        listening, made = open_socket("127.0.0.1", 0, "--grpc-port", shared=False), []
        all_made = asyncio.Event()

        class Greeter(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(transport)
                if len(made) < 6:  # who comes at this very moment
                    stack.enter_context(socket.create_connection(listening.getsockname(), timeout=PATIENT))
                else:
                    all_made.set()

        visitors = Visitors("grpc", lambda: len(made))
        entrance = Entrance(listening, Greeter, visitors, most=6, refusal=b"", tls=None)
        with ExitStack() as stack:
            stack.enter_context(socket.create_connection(listening.getsockname(), timeout=PATIENT))
            with suppress(TimeoutError):
                await asyncio.wait_for(all_made.wait(), 60)
            entrance.close()
            for transport in made:
                transport.close()
        assert (len(made), visitors.refused) == (6, 0)

    asyncio.run(story())


def test_who_does_not_finish_the_handshake_keeps_nobody_out(
    service, tiny_edge_bundle: TinyBundle, certificates: Certificates, grpc_front: str
) -> None:
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--front", grpc_front)
    server = service(
        "serve", tiny_edge_bundle.path, *ports, "--tls-cert", certificates.cert, "--tls-key", certificates.key
    )
    context = ssl.create_default_context(cafile=str(certificates.cert))
    trusted = grpc.ssl_channel_credentials(certificates.cert.read_bytes())

    def serves(name: str) -> bool:
        if name == "grpc":
            return is_live(server.ready[name], trusted) == "OK"
        with context.wrap_socket(connect(server.ready[name]), server_hostname="localhost") as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
            return client.recv(9) == b"HTTP/1.1 "

    with ExitStack() as stack:
        for name, number in (("grpc", 520), ("http", 520), ("metrics", 70)):  # more than may shake hands at a time
            crowd = [stack.enter_context(connect(server.ready[name])) for _ in range(number)]
            for one, sent in zip(crowd, range(number), strict=True):
                with suppress(ConnectionError):  # it may have been let go already
                    one.sendall(b"\x16\x03\x01\x02\0\x01"[: sent % 7])
            assert serves(name)
            if name != "grpc" or grpc_front == "fast":
                assert crowd[0].recv(1) == b"", "the oldest is let go before its time"
    assert all(map(serves, ("grpc", "http", "metrics")))
    assert server.stop() == 0
