"""TLS both ways, tokens and their renewal; and what is said where they do not fit."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

import edge_sdk
from edge_sdk.client import Cloud
from edge_sdk.client.credentials import Credentials
from edge_sdk.client.failures import Complaints
from edge_sdk.errors import EscalationError, InputError
from outside.certificates import Certificates, make_certificates
from outside.replicas import Replica

PATIENT = 20.0
ONE = (1.0, 0.0, 0.0)
SECRET = "s3cret-of-a-test"


@pytest.fixture
def replicas() -> Iterator[Any]:
    """Return what makes replicas that are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Replica(*args, **options))


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificates]:
    """Return certificates of all kinds."""
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "good": make_certificates(folder, stem="good-"),
        "another": make_certificates(folder, stem="another-"),
        "expired": make_certificates(folder, stem="expired-", days=(-3, -1)),
        "early": make_certificates(folder, stem="early-", days=(1, 3)),
        "elsewhere": make_certificates(folder, stem="elsewhere-", names=("other.example",)),
    }


def shown(certificates: Certificates, wanted: Certificates | None = None) -> Any:
    """Return a server's credentials, which ask clients for a certificate where one is wanted."""
    pair = [(certificates.key.read_bytes(), certificates.cert.read_bytes())]
    if wanted is None:
        return grpc.ssl_server_credentials(pair)
    return grpc.ssl_server_credentials(pair, wanted.cert.read_bytes(), require_client_auth=True)


def ask(pair, cloud: Cloud, **options: Any) -> Any:
    return edge_sdk.connect(pair.edge, cloud=cloud, **{"mode": "prefer_cloud", "deadline": PATIENT, **options})


def why(pair, cloud: Cloud) -> str:
    """Return what a call says that has no answer."""
    with ask(pair, cloud, mode="cloud") as model, pytest.raises(EscalationError) as caught:
        model.predict(pair.hard[0])
    return str(caught.value)


def until_cloud(model, frame) -> None:
    end = time.monotonic() + PATIENT
    while (answer := model.predict(frame)).source != "cloud":
        assert time.monotonic() < end, answer
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("server", "trusted", "says"),
    [
        ("good", "another", "not signed by an authority in tls_ca"),
        ("expired", "expired", "has expired: renew it there"),
        ("early", "early", "is not valid yet: check this device's clock"),
        ("elsewhere", "elsewhere", "is for another name: connect by that name, or give it as server_name"),
        (None, "good", "does not speak TLS: leave tls_ca away"),
        ("good", None, "if it speaks TLS, give tls_ca"),
    ],
)
def test_a_certificate_that_does_not_fit_is_told_from_the_others(pair, replicas, issued, server, trusted, says) -> None:
    replica = replicas(credentials=None if server is None else shown(issued[server]))
    message = why(pair, Cloud(replica.address, tls_ca=None if trusted is None else issued[trusted].cert))
    assert "(offline)" in message
    assert says in message
    assert replica.address in message
    assert not replica.calls


def test_the_authorities_that_the_system_trusts_are_taken_by_name(pair, replicas, issued, monkeypatch) -> None:
    replica = replicas(credentials=shown(issued["good"]))
    monkeypatch.setenv("SSL_CERT_FILE", str(issued["good"].cert))
    with ask(pair, Cloud(replica.address, tls_ca="system")) as model:
        assert model.predict(pair.hard[0]).source == "cloud"
    monkeypatch.setenv("SSL_CERT_FILE", str(issued["another"].cert))
    assert "not signed by an authority in tls_ca" in why(pair, Cloud(replica.address, tls_ca="system"))


def test_a_file_of_authorities_may_have_comments_in_any_language(pair, replicas, issued, tmp_path: Path) -> None:
    replica = replicas(credentials=shown(issued["good"]))
    commented = tmp_path / "ca.pem"
    commented.write_bytes("# Főtanúsítvány\n".encode() + issued["good"].cert.read_bytes())
    with ask(pair, Cloud(replica.address, tls_ca=commented)) as model:
        assert model.predict(pair.hard[0]).source == "cloud"


def test_a_name_that_is_not_known_says_so(pair) -> None:
    assert "its name is not known" in why(pair, Cloud("no-such-host.invalid:8001"))


def test_a_certificate_for_another_name_is_taken_by_that_name(pair, replicas, issued) -> None:
    replica = replicas(credentials=shown(issued["elsewhere"]))
    cloud = Cloud(replica.address, tls_ca=issued["elsewhere"].cert, server_name="other.example")
    with ask(pair, cloud) as model:
        assert model.predict(pair.hard[0]).source == "cloud"


def test_a_server_may_ask_for_a_certificate_of_the_device(pair, replicas, issued) -> None:
    ours, theirs = issued["another"], issued["good"]
    replica = replicas(credentials=shown(theirs, wanted=ours))
    with ask(pair, Cloud(replica.address, tls_ca=theirs.cert, tls_cert=ours.cert, tls_key=ours.key)) as model:
        assert model.predict(pair.hard[0]).source == "cloud"
    assert "give tls_cert and tls_key" in why(pair, Cloud(replica.address, tls_ca=theirs.cert))
    wrong = issued["elsewhere"]
    cloud = Cloud(replica.address, tls_ca=theirs.cert, tls_cert=wrong.cert, tls_key=wrong.key)
    assert "give another one" in why(pair, cloud)


def guarded_by(tokens: set[str]) -> Any:
    """Return what answers who shows one of the tokens."""

    def answer(number: int, context: Any) -> Any:
        given = dict(context.invocation_metadata()).get("authorization", "")
        if given.removeprefix("Bearer ") not in tokens:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")
        return ONE

    return answer


def test_a_token_that_is_missing_wrong_or_has_no_right_is_said_to_be(pair, replicas) -> None:
    replica = replicas(guarded_by({SECRET}))
    assert "the server wants a token: give token or token_file" in why(pair, Cloud(replica.address))
    message = why(pair, Cloud(replica.address, token="another-one"))
    assert "(rejected)" in message
    assert "the token is not accepted" in message
    assert "another-one" not in message
    replica = replicas(lambda _, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you"))
    assert "has not the right (not you)" in why(pair, Cloud(replica.address, token=SECRET))


def test_a_renewed_token_is_read_again(pair, replicas, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    tokens, file = {SECRET}, tmp_path / "token"
    file.write_text(SECRET + "\n")
    replica = replicas(guarded_by(tokens))
    with ask(pair, Cloud(replica.address, token_file=file)) as model:
        assert model.predict(pair.hard[0]).source == "cloud"
        tokens.clear()
        tokens.add("renewed-" + SECRET)
        assert model.predict(pair.hard[0]).reason == "rejected"
        file.write_text("renewed-" + SECRET)
        until_cloud(model, pair.hard[0])
    assert SECRET not in caplog.text


def test_renewed_certificates_are_read_again(pair, replicas, issued, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    shutil.copy(issued["good"].cert, authority)
    first = replicas(credentials=shown(issued["good"]))
    with ask(pair, Cloud(first.address, tls_ca=authority)) as model:
        assert model.predict(pair.hard[0]).source == "cloud"
        first.close()
        replicas(credentials=shown(issued["another"]), port=first.port)
        assert model.predict(pair.hard[0]).reason == "offline"
        shutil.copy(issued["another"].cert, authority)
        until_cloud(model, pair.hard[0])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_files_are_looked_at_now_and_then_and_sooner_in_doubt(issued, tmp_path: Path) -> None:
    ours = issued["good"]
    file, clock = tmp_path / "token", Clock()
    file.write_text("one")
    cloud = Cloud("a:1", tls_ca=ours.cert, tls_cert=ours.cert, tls_key=ours.key, token_file=file)
    complaints: list[str] = []
    read = Credentials(cloud, complaints.append, clock)
    file.write_text("second")
    read.refresh()
    assert read.metadata == (("authorization", "Bearer one"),)
    clock.now = 1.0
    read.refresh()
    assert read.metadata == (("authorization", "Bearer one"),)
    read.refresh(doubted=True)
    assert read.metadata == (("authorization", "Bearer second"),)
    assert read.version == 0, "connections stay, for the token goes with each call"
    file.write_text("")
    clock.now = 6.0
    read.refresh()
    assert read.metadata == (("authorization", "Bearer second"),)
    assert "should hold a token" in complaints[0]
    file.unlink()
    clock.now = 11.0
    read.refresh()
    assert "cannot read" in complaints[1]
    file.write_text("third")
    clock.now = 16.0
    read.refresh()
    assert read.metadata == (("authorization", "Bearer third"),)
    assert len(complaints) == 2


def test_a_certificate_without_its_key_stays_unread_until_both_are_renewed(issued, tmp_path: Path) -> None:
    cert, key, clock = tmp_path / "cert.pem", tmp_path / "key.pem", Clock()
    shutil.copy(issued["good"].cert, cert)
    shutil.copy(issued["good"].key, key)
    complaints: list[str] = []
    read = Credentials(Cloud("a:1", tls_ca=cert, tls_cert=cert, tls_key=key), complaints.append, clock)
    shutil.copy(issued["another"].cert, cert)
    clock.now = 5.0
    read.refresh()
    assert read.version == 0
    assert "are no certificate and its key" in complaints[0]
    shutil.copy(issued["another"].key, key)
    clock.now = 10.0
    read.refresh()
    assert read.version == 1
    assert len(complaints) == 1


def test_a_call_under_way_outlives_the_renewal_of_its_certificate(pair, replicas, issued, tmp_path: Path) -> None:
    authority, hold, held = tmp_path / "ca.pem", threading.Event(), threading.Event()
    shutil.copy(issued["good"].cert, authority)

    renewed, peers = threading.Event(), set()

    def answer(number: int, context: Any) -> Any:
        if number == 1:
            held.set()
            hold.wait(PATIENT)
        elif renewed.is_set() and context.peer() in peers:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "come with the new certificate")
        else:
            peers.add(context.peer())
        return ONE

    replica = replicas(answer, credentials=shown(issued["good"]))
    with ask(pair, Cloud(replica.address, tls_ca=authority)) as model, ThreadPoolExecutor(1) as pool:
        assert model.predict(pair.hard[0]).source == "cloud"
        under_way = pool.submit(model.predict, pair.hard[0])
        assert held.wait(PATIENT)
        both = issued["good"].cert.read_bytes() + issued["another"].cert.read_bytes()
        authority.write_bytes(both)
        renewed.set()
        until_cloud(model, pair.hard[0])
        assert len(peers) == 2, "over another connection"
        hold.set()
        assert under_way.result(PATIENT).source == "cloud"


@pytest.mark.slow  # files are looked at every five seconds
def test_closing_ends_a_call_on_a_connection_that_was_replaced(pair, replicas, issued, tmp_path: Path) -> None:
    authority, hold, held, peers = tmp_path / "ca.pem", threading.Event(), threading.Event(), set()
    shutil.copy(issued["good"].cert, authority)

    def answer(number: int, context: Any) -> Any:
        if number == 1:
            held.set()
            hold.wait(PATIENT)
        else:
            peers.add(context.peer())
        return ONE

    replica = replicas(answer, credentials=shown(issued["good"]))
    with ask(pair, Cloud(replica.address, tls_ca=authority), deadline=None) as model, ThreadPoolExecutor(1) as pool:
        assert model.predict(pair.hard[0]).source == "cloud"
        under_way = pool.submit(model.predict, pair.hard[0])
        assert held.wait(PATIENT)
        authority.write_bytes(issued["good"].cert.read_bytes() + issued["another"].cert.read_bytes())
        end = time.monotonic() + PATIENT
        while len(peers) < 2:
            assert time.monotonic() < end, "the connection was not replaced"
            model.predict(pair.hard[0])
            time.sleep(0.05)
        model.close()
        assert under_way.result(PATIENT / 2).reason == "deadline"
        hold.set()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tls_ca", b"no certificate", "holds no certificate in PEM format"),
        ("tls_key", b"no key", "are no certificate and its key"),
        ("token_file", b"two\nlines", "one line of printable ASCII"),
        ("token_file", b"\xff\xfe", "one line of printable ASCII"),
    ],
)
def test_files_that_are_something_else_are_refused(pair, issued, tmp_path: Path, name, content, says) -> None:
    good, file = issued["good"], tmp_path / "file"
    file.write_bytes(content)
    files = {"tls_ca": good.cert, "tls_cert": good.cert, "tls_key": good.key, name: file}
    with pytest.raises(InputError, match=says) as caught:
        ask(pair, Cloud("127.0.0.1:1", **files))
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_trouble_is_said_once_a_minute_and_not_once_a_call(pair, replicas, issued, caplog) -> None:
    replica = replicas(credentials=shown(issued["good"]))
    with ask(pair, Cloud(replica.address, tls_ca=issued["another"].cert)) as model:
        for _ in range(50):
            assert model.predict(pair.hard[0]).reason == "offline"
        assert model.counters["reasons"] == {"offline": 50}
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "not signed by an authority" in warnings[0].getMessage()


def test_what_was_not_said_is_counted(caplog) -> None:
    clock = Clock()
    complaints = Complaints(clock)
    for second in range(90):
        clock.now = float(second)
        complaints.say("tls", "it is broken")
        complaints.say("other", "it is odd")
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "it is broken",
        "it is odd",
        "it is broken (and 59 times more since it was last said)",
        "it is odd (and 59 times more since it was last said)",
    ]
