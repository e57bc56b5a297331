"""TLS of both fronts: clients' certificates, and new certificates while connections are open."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shutil
import signal
import ssl
import threading
import time
from pathlib import Path

import grpc
import pytest

from edge_sdk.cloud.server.certificates import Certificates as ServerCertificates
from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.service import Shared, reload
from edge_sdk.protocol import messages
from outside.bundles import TinyBundle
from outside.certificates import Certificates, make_certificates
from outside.services import edge_sdk as run_edge_sdk

PATIENT = 20.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]  # not one that another channel has opened


def live(channel: grpc.Channel, timeout: float = PATIENT) -> bool:
    takes, gives = messages.METHODS["ServerLive"]
    call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive", takes.SerializeToString, gives.FromString)
    return call(takes(), timeout=timeout).live


def trusting(certificates: Certificates, client: Certificates | None = None) -> grpc.ChannelCredentials:
    own = (None, None) if client is None else (client.key.read_bytes(), client.cert.read_bytes())
    return grpc.ssl_channel_credentials(certificates.cert.read_bytes(), *own)


def https(address: str, certificates: Certificates, client: Certificates | None = None) -> int:
    """Return the status of a health check."""
    context = ssl.create_default_context(cafile=str(certificates.cert))
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=PATIENT, context=context)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status
    finally:
        connection.close()


def made(folder: Path) -> Certificates:
    folder.mkdir()
    return make_certificates(folder)


def tls_options(certificates: Certificates) -> list[object]:
    return ["--grpc-port", "0", "--http-port", "0", "--tls-cert", certificates.cert, "--tls-key", certificates.key]


def test_a_new_certificate_is_taken_while_requests_go_on(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str
) -> None:
    first, second, used = made(tmp_path / "first"), made(tmp_path / "second"), made(tmp_path / "used")
    for name in ("cert.pem", "key.pem"):
        shutil.copy(tmp_path / "first" / name, tmp_path / "used" / name)
    process = service("serve", tiny_edge_bundle.path, *tls_options(used), "--front", grpc_front)
    address, failed, end = process.ready["grpc"], [], threading.Event()
    with grpc.secure_channel(address, trusting(first)) as channel:
        assert live(channel)
        assert https(process.ready["http"], first) == 200

        def go_on() -> None:
            while not end.is_set():
                try:
                    live(channel)
                except grpc.RpcError as error:
                    failed.append(error)

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            # the key alone belongs to no certificate for a moment, as when files are copied one by one
            shutil.copy(second.key, used.key)
            deadline = time.monotonic() + PATIENT
            while "the certificate in use stays" not in process.errors:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert https(process.ready["http"], first) == 200
            shutil.copy(second.cert, used.cert)
            deadline = time.monotonic() + PATIENT
            while True:
                try:
                    assert https(process.ready["http"], second) == 200
                    break
                except ssl.SSLError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            with grpc.secure_channel(address, trusting(second)) as other:
                assert live(other)
            with grpc.secure_channel(address, trusting(first), OWN_CONNECTION) as other, pytest.raises(grpc.RpcError):
                live(other, timeout=2)
        finally:
            end.set()
            thread.join()
        assert live(channel), "the old connection stays"
    assert failed == []
    assert process.stop() == 0
    assert process.errors.count("the certificate in use stays") == 1


def test_clients_without_a_certificate_of_the_authority_are_refused(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str
) -> None:
    server, client, stranger = made(tmp_path / "server"), made(tmp_path / "client"), made(tmp_path / "stranger")
    options = (*tls_options(server), "--tls-client-ca", client.cert, "--front", grpc_front)
    process = service("serve", tiny_edge_bundle.path, *options)
    with grpc.secure_channel(process.ready["grpc"], trusting(server, client)) as channel:
        assert live(channel)
    assert https(process.ready["http"], server, client) == 200
    for other in (None, stranger):
        channel = grpc.secure_channel(process.ready["grpc"], trusting(server, other), OWN_CONNECTION)
        with channel, pytest.raises(grpc.RpcError):
            live(channel, timeout=2)
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            https(process.ready["http"], server, other)
    assert process.stop() == 0


def test_authorities_that_are_taken_away_let_nobody_in_any_more(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str
) -> None:
    server, old, new = made(tmp_path / "server"), made(tmp_path / "old"), made(tmp_path / "new")
    authorities = tmp_path / "authorities.pem"
    shutil.copy(old.cert, authorities)
    process = service(
        "serve", tiny_edge_bundle.path, *tls_options(server), "--tls-client-ca", authorities, "--front", grpc_front
    )

    def lets_in(client: Certificates) -> list[bool]:
        """Tell of gRPC and of REST whether they do."""
        both = []
        with grpc.secure_channel(process.ready["grpc"], trusting(server, client), OWN_CONNECTION) as channel:
            try:
                both.append(live(channel, timeout=5))
            except grpc.RpcError:
                both.append(False)
        try:
            both.append(https(process.ready["http"], server, client) == 200)
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            both.append(False)
        return both

    assert (lets_in(old), lets_in(new)) == ([True, True], [False, False])
    shutil.copy(new.cert, authorities)
    process.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + PATIENT
    while lets_in(new) != [True, True]:
        assert time.monotonic() < deadline
    assert lets_in(old) == [False, False]
    assert process.stop() == 0


def test_a_hangup_takes_a_new_certificate_without_waiting_for_the_next_look(
    tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    first, second = made(tmp_path / "first"), made(tmp_path / "second")
    used = tmp_path / "cert.pem", tmp_path / "key.pem"
    core = Core.load([tiny_edge_bundle.path])
    with contextlib.closing(core):
        for one in (first, second):
            shutil.copy(one.cert, used[0])
            shutil.copy(one.key, used[1])
            if one is first:
                certificates = ServerCertificates(*used)
                current = certificates.tls()
            else:
                assert greets(current(), first), "nobody has looked"
                asyncio.run(reload(Shared(core, certificates, None, None)))
            assert [greets(current(), other) for other in (first, second)] == [one is first, one is second]


def greets(server: ssl.SSLContext, trusted: Certificates) -> bool:
    """Tell whether who trusts a certificate believes a server."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=str(trusted.cert)).wrap_bio(back, there, server_hostname="localhost")
    ends = client, server.wrap_bio(there, back, server_side=True)
    for end in (*ends, *ends):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_authorities_that_are_none_or_alone_are_refused(tiny_edge_bundle: TinyBundle, tmp_path: Path) -> None:
    server = made(tmp_path / "server")
    (tmp_path / "ca.pem").write_text("not PEM")
    for options, says in (
        ([*tls_options(server), "--tls-client-ca", tmp_path / "ca.pem"], "holds no certificates in PEM"),
        ([*tls_options(server), "--tls-client-ca", tmp_path / "missing"], "there is no file"),
        (["--grpc-port", "0", "--tls-client-ca", server.cert], "needs --tls-cert"),
    ):
        done = run_edge_sdk("serve", tiny_edge_bundle.path, *options)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
