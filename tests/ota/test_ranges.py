"""Metadata and blocks from a web server: verified as those over MQTT are."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.errors import InputError, TransferError
from edge_sdk.ota import Ranges, active
from edge_sdk.ota.transfer import Download
from outside.certificates import Certificates, make_certificates
from outside.updates import Fleet, make_bundle


class Web:
    """A web server over a folder that knows ranges, and a few ways to fail."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        self.cut_after = 10**9
        self.token: str | None = None
        self.ranges = True
        self.refusals: Iterator[str | None] = iter(())  # of the next requests: what is said of when to come again
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.asked.append((self.path, self.headers["Range"]))
                if (after := next(web.refusals, "")) != "":
                    return self.end(429, b"", after=after)
                if web.token is not None and self.headers["Authorization"] != f"Bearer {web.token}":
                    return self.end(401, b"")
                path = folder / self.path.removeprefix("/repo/")
                if not path.is_file():
                    return self.end(404, b"")
                data = path.read_bytes()
                first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
                if not web.ranges:
                    return self.end(200, data)
                if first >= len(data):
                    return self.end(416, b"")
                part = data[first : last + 1]
                if len(web.asked) > web.cut_after:
                    part, self.close_connection = part[: len(part) // 2], True
                where = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
                return self.end(206, part, where, min(last + 1, len(data)) - first)

            def end(
                self, status: int, data: bytes, where: str = "", length: int | None = None, after: str | None = None
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data) if length is None else length))
                if where:
                    self.send_header("Content-Range", where)
                if after is not None:
                    self.send_header("Retry-After", after)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/repo"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def over_tls(self, own: Certificates, *, clients: Path | None = None) -> str:
        """Speak TLS from now on, to clients with a certificate of that authority if there is one."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients)
        context.load_cert_chain(own.cert, own.key)
        context.verify_mode = ssl.CERT_NONE if clients is None else ssl.CERT_REQUIRED
        context.num_tickets = 0
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.server.handle_error = lambda *arguments: None
        return self.url.replace("http:", "https:")


@pytest.fixture
def web(fleet: Fleet) -> Iterator[Web]:
    """Return a web server over the fleet's repository, which has a bundle of several blocks for cam-1."""
    fleet.ship(make_bundle(fleet.folder, "1.0.0", golden_kib=500))
    made = Web(fleet.repository.folder)
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def test_an_update_comes_from_a_web_server_and_its_reports_go_to_the_broker(fleet: Fleet, web: Web) -> None:
    web.token = "secret"
    assert fleet.check(repository=Ranges(web.url, token="secret")) == "active"
    assert active(fleet.folder / "state" / "cam-1") is not None
    assert fleet.events[-1].bytes > fleet.repository.bundles()["tiny-1.0.0"].size


def test_a_delta_comes_from_a_web_server_in_place_of_the_file(fleet: Fleet, web: Web) -> None:
    assert fleet.check(repository=Ranges(web.url)) == "active"
    made = fleet.folder / "tiny-1.1.0.edge"
    Bundle.open(fleet.folder / "tiny-1.0.0.edge").rewrite(made, version="1.1.0")
    fleet.ship(made)
    web.asked = []
    assert fleet.check(repository=Ranges(web.url)) == "active"
    assert [Path(path).suffix for path, _ in web.asked if "/bundles/" in path] == [".delta"]
    assert fleet.events[-1].version == "1.1.0"


def test_bytes_changed_on_the_web_server_are_refused(fleet: Fleet, web: Web) -> None:
    stored = fleet.repository.target_file("tiny-1.0.0")
    data = bytearray(stored.read_bytes())
    data[200_000] ^= 1
    stored.write_bytes(data)
    assert fleet.check(repository=Ranges(web.url)) == "refused"
    assert "does not match its signed hash" in fleet.events[-1].reason


def test_after_a_cut_no_block_that_is_there_is_fetched_again(fleet: Fleet, web: Web, tmp_path: Path) -> None:
    target = fleet.repository.bundles()["tiny-1.0.0"]
    web.cut_after = 2
    with pytest.raises(TransferError, match="did not answer within 2 attempts"):
        Download(tmp_path / "download", target).fetch(Ranges(web.url, attempts=2, timeout=2.0))
    web.cut_after, web.asked = 10**9, []
    with contextlib.closing(Ranges(web.url)) as source:
        Download(tmp_path / "download", target).fetch(source)
    assert len(web.asked) == len(target.blocks) - 2


def test_a_web_server_that_is_asked_too_often_is_asked_less_often_and_the_blocks_come(
    fleet: Fleet, web: Web, tmp_path: Path
) -> None:
    target = fleet.repository.bundles()["tiny-1.0.0"]
    web.refusals = iter(("0", None, "soon"))
    with contextlib.closing(Ranges(web.url, attempts=1, timeout=60)) as source:
        Download(tmp_path / "download", target).fetch(source)
    assert len(web.asked) == 3 + len(target.blocks)
    assert source.silent == ""


def test_a_web_server_that_says_when_it_may_be_asked_again_is_not_asked_before(fleet: Fleet, web: Web) -> None:
    until: list[float] = []

    def refuse() -> str:
        until.append(until[0] if until else time.monotonic() + 1)
        return "1" if time.monotonic() < until[0] else ""

    web.refusals = iter(refuse, None)
    with contextlib.closing(Ranges(web.url, attempts=1, timeout=60)) as source:
        [(_, reply)] = source.fetch([{"metadata": "timestamp.json"}])
    assert reply.status == 200
    assert len(web.asked) == 2


def test_a_web_server_that_only_says_that_it_is_asked_too_often_fails_the_transfer(fleet: Fleet, web: Web) -> None:
    web.refusals = iter(lambda: "0", "")
    with contextlib.closing(Ranges(web.url, attempts=2, timeout=0.5)) as source:
        with pytest.raises(TransferError, match="answers only that this device asks too often") as caught:
            list(source.fetch([{"metadata": "timestamp.json"}]))
        assert source.silent == str(caught.value)
    assert 2 <= len(web.asked) < 20


def test_a_transfer_that_waits_for_leave_to_ask_again_can_be_stopped(web: Web) -> None:
    web.refusals = iter(lambda: "5", "")
    with contextlib.closing(Ranges(web.url)) as source:
        source.meanwhile = lambda: source.cancel() if web.asked else None
        with pytest.raises(TransferError, match="stopped"):
            list(source.fetch([{"metadata": "timestamp.json"}]))
    assert len(web.asked) == 1


@pytest.mark.parametrize(("trouble", "reason"), [("token", "refuses us"), ("ranges", "does not answer ranges")])
def test_a_web_server_that_does_not_serve_us_is_one_line(fleet: Fleet, web: Web, trouble: str, reason: str) -> None:
    setattr(web, trouble, "other" if trouble == "token" else False)
    assert fleet.check(repository=Ranges(web.url)) == "idle"
    assert reason in fleet.events[-1].reason


def test_no_web_server_is_one_line() -> None:
    with pytest.raises(TransferError, match=r"repository at 127\.0\.0\.1:1 did not answer"):
        list(Ranges("http://127.0.0.1:1", attempts=1).fetch([{"metadata": "timestamp.json"}]))


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://host", "https://", "https://user:pw@host", "https://host/?q=1", "host:80"),
        *("https://host:x", "https://host:99999", "https://user:pw@host:x"),
    ],
)
def test_a_url_of_another_form_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InputError) as caught:
        Ranges(url)
    assert "pw" not in str(caught.value)


def test_a_token_is_not_sent_in_clear() -> None:
    with pytest.raises(InputError, match="use https"):
        Ranges("http://example.org/repo", token="secret")


_PART = b"HTTP/1.1 206 Partial\r\nContent-Length: %d\r\nContent-Range: bytes %s\r\n\r\nx"
GARBAGE = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "nothing": b"",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nabc",
    "another range": _PART % (1, b"5-5/9"),
    "endless number": _PART % (1, b"0-0/" + b"9" * 5000),
    "too much": _PART % (10**10, b"0-0/9"),
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "a cut body": _PART % (9, b"0-8/9"),
}


@contextlib.contextmanager
def raw(answer: bytes, pause: float = 0.0, *, at_once: int = 0) -> Iterator[str]:
    """Serve one connection: any request is answered with these bytes, one at a time where there is a pause.

    The first ``at_once`` come without.
    """

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            if not pause:
                connection.sendall(answer)
                return
            connection.sendall(answer[:at_once])
            for byte in answer[at_once:]:
                connection.sendall(bytes([byte]))
                time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("name", GARBAGE)
def test_whatever_a_web_server_answers_is_one_line(name: str) -> None:
    with raw(GARBAGE[name]) as url, contextlib.closing(Ranges(url, attempts=1, timeout=2.0)) as source:
        with pytest.raises(TransferError) as caught:
            list(source.fetch([{"metadata": "timestamp.json"}]))
        assert "\n" not in str(caught.value)


def test_a_web_server_that_answers_a_byte_now_and_then_is_given_up() -> None:
    head = b"HTTP/1.1 206 Partial\r\nContent-Length: 300\r\nContent-Range: bytes 0-299/300\r\n\r\n"
    with raw(head + b"x" * 300, pause=0.02, at_once=len(head)) as url:
        source = Ranges(url, attempts=1, timeout=1.0)
        with pytest.raises(TransferError, match="too slowly"):
            list(source.fetch([{"metadata": "timestamp.json"}]))
        assert source.bytes_received < 300


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000])
def test_a_web_server_whose_head_drips_is_given_up(head: bytes) -> None:
    with raw(head, pause=0.02) as url, pytest.raises(TransferError, match="too slowly"):
        list(Ranges(url, attempts=1, timeout=0.6).fetch([{"metadata": "timestamp.json"}]))


def test_a_web_server_that_says_nothing_is_given_up() -> None:
    with raw(b"H", pause=2.0) as url, pytest.raises(TransferError, match="nothing came for 1 s"):
        list(Ranges(url, attempts=1, timeout=1.0).fetch([{"metadata": "timestamp.json"}]))


def test_an_update_comes_over_https_from_whom_the_devices_authority_vouches_for(
    fleet: Fleet, web: Web, certificates: Certificates, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path, stem="other-")
    url = web.over_tls(certificates, clients=other.cert)
    for ca, own in ((None, other), (other.cert, other), (certificates.cert, None)):
        files = {} if own is None else {"certificate": own.cert, "key": own.key}
        assert fleet.check(repository=Ranges(url, ca=ca, attempts=1, **files)) == "idle"
        assert ("certificate" in fleet.events[-1].reason) or own is None
    own = {"ca": certificates.cert, "certificate": other.cert, "key": other.key}
    assert not web.asked
    assert fleet.check(repository=Ranges(url, **own)) == "active"


def test_a_certificate_of_another_host_is_refused(fleet: Fleet, web: Web, tmp_path: Path) -> None:
    elsewhere = make_certificates(tmp_path, names=("elsewhere.example",))
    with pytest.raises(TransferError, match="IP address mismatch"):
        list(Ranges(web.over_tls(elsewhere), ca=elsewhere.cert, attempts=1).fetch([{"metadata": "timestamp.json"}]))
    assert not web.asked


def test_certificates_that_are_renewed_are_taken_up_at_the_next_connection(
    fleet: Fleet, web: Web, certificates: Certificates, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(make_certificates(tmp_path, stem="old-").cert.read_bytes())
    with contextlib.closing(Ranges(web.over_tls(certificates), ca=ca, attempts=1)) as source:
        with pytest.raises(TransferError, match="certificate verify failed"):
            list(source.fetch([{"metadata": "timestamp.json"}]))
        ca.write_bytes(b"no certificate")
        with pytest.raises(TransferError, match="cannot be used"):
            list(source.fetch([{"metadata": "timestamp.json"}]))
        ca.write_bytes(certificates.cert.read_bytes())
        [(_, reply)] = source.fetch([{"metadata": "timestamp.json"}])
    assert reply.status == 200


def test_a_token_that_no_header_can_hold_is_one_line_that_does_not_show_it(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "lines").write_text("secret\nanother\n")
    for token in ("secret\r\nHost: other", "secret\u00e4", tmp_path / "binary", tmp_path / "lines"):
        with pytest.raises(TransferError) as failure:
            list(Ranges("http://127.0.0.1:1", token=token, attempts=1).fetch([{"metadata": "timestamp.json"}]))
        assert "secret" not in str(failure.value)
        assert "\n" not in str(failure.value)
