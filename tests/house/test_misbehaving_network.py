"""A proxy that does not do what its mode says would make every test on it lie."""

from __future__ import annotations

import socket
import threading

import pytest


@pytest.fixture
def echo():
    """Port of a server that sends back what it gets; its connections see end of file."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def connect(proxy, timeout=5.0):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout)


def receive(connection, n):
    data = b""
    while len(data) < n and (part := connection.recv(n - len(data))):
        data += part
    return data


def test_bytes_pass_and_are_counted(network, echo):
    proxy = network(echo)
    payload = bytes(range(256)) * 4096
    with connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(payload,)).start()
        assert receive(client, len(payload)) == payload
    assert (proxy.to_server, proxy.to_client, proxy.connections) == (len(payload), len(payload), 1)


def test_a_half_closed_connection_still_answers(network, echo):
    with connect(network(echo)) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 10) == b"last words"
        assert client.recv(1) == b""


def test_a_black_hole_swallows_bytes_of_an_open_connection_and_lets_it_live(network, echo):
    proxy = network(echo)
    with connect(proxy) as client:
        client.sendall(b"a")
        assert receive(client, 1) == b"a"
        proxy.set("blackhole")
        client.sendall(b"b")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.set("pass")
        client.settimeout(5)
        client.sendall(b"c")
        assert receive(client, 1) == b"c"


def test_a_black_hole_accepts_new_connections(network, echo):
    proxy = network(echo)
    proxy.set("blackhole")
    with connect(proxy, 0.5) as client:
        client.sendall(b"x")
        with pytest.raises(TimeoutError):
            client.recv(1)


@pytest.mark.parametrize("mode", ["reset", "refuse"])
def test_an_open_connection_is_reset(network, echo, mode):
    proxy = network(echo)
    with connect(proxy) as client:
        client.sendall(b"a")
        assert receive(client, 1) == b"a"
        proxy.set(mode)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_new_connection_is_reset_after_it_was_accepted(network, echo):
    proxy = network(echo)
    proxy.set("reset")
    with pytest.raises(ConnectionResetError), connect(proxy) as client:  # a fast reset overtakes the connecting
        client.recv(1)


def test_a_new_connection_is_refused_until_the_network_is_back(network, echo):
    proxy = network(echo)
    proxy.set("refuse")
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.set("pass")
    with connect(proxy) as client:
        client.sendall(b"back")
        assert receive(client, 4) == b"back"


@pytest.mark.parametrize(("mode", "payload"), [("delay", b"late"), ("drip", b"four")])
def test_bytes_come_late_but_whole(network, echo, mode, payload):
    proxy = network(echo)
    proxy.set(mode, seconds=0.1)
    with connect(proxy) as client:
        client.sendall(payload)
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        assert receive(client, len(payload)) == payload


def test_a_connection_drops_after_exactly_so_many_bytes(network, echo):
    proxy = network(echo)
    proxy.set("drop", limit=1000)
    with connect(proxy) as client:
        client.sendall(bytes(5000))
        assert len(receive(client, 1000)) == 1000
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert proxy.to_client == 1000


def test_a_server_that_is_gone_shows_as_a_reset(network, echo):
    proxy = network(echo)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = network(unused.getsockname()[1])
        with pytest.raises(ConnectionResetError), connect(proxy) as client:  # it may be reset while it connects
            client.recv(1)


@pytest.mark.parametrize("mode", ["halfopen", "ignore"])
def test_a_connection_whose_peer_has_vanished_stays_dead_when_the_network_is_back(network, echo, mode):
    proxy = network(echo)
    with connect(proxy) as client:
        client.sendall(b"a")
        assert receive(client, 1) == b"a"
        proxy.set(mode)
        proxy.set("pass")
        client.sendall(b"b")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
    with connect(proxy) as client:
        client.sendall(b"c")
        assert receive(client, 1) == b"c"


def test_nobody_answers_who_connects_to_a_network_that_ignores(network, echo):
    proxy = network(echo)
    proxy.set("ignore")
    with pytest.raises(TimeoutError):
        connect(proxy, 0.3)
    proxy.set("pass")
    with connect(proxy) as client:
        client.sendall(b"back")
        assert receive(client, 4) == b"back"


def test_lost_bytes_come_late_and_in_order(network, echo):
    proxy = network(echo)
    proxy.set("loss", share=0.9)
    with connect(proxy) as client:
        client.sendall(b"first")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.set("pass")
        client.sendall(b"second")
        client.settimeout(20)
        assert receive(client, 11) == b"firstsecond"


def test_what_the_server_says_is_garbled(network, echo):
    proxy = network(echo)
    proxy.set("garbage")
    with connect(proxy) as client:
        client.sendall(b"a sentence that means something")
        assert receive(client, 31) != b"a sentence that means something"


def test_connections_go_to_another_server_once_redirected(network, echo):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = network(unused.getsockname()[1])
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
    proxy.redirect(echo)
    with connect(proxy) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"


def test_an_unknown_mode_is_refused(network, echo):
    with pytest.raises(ValueError, match="no mode 'slow'"):
        network(echo).set("slow")
