"""An MQTT 5 broker as a child process, for development, tests and the demo.

Engines: iotcore (a wheel that embeds the Rust broker rumqttd) or, where it has no wheel, the
mosquitto program. Both listen on one address only; iotcore alone would listen on all of them.
Beyond one machine use a broker of your own: ``docs/brokers.md``.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, Self

from edge_sdk.errors import BrokerError, InputError, PortInUseError

__all__ = ["ENGINES", "EmbeddedBroker", "Engine"]

log = logging.getLogger("edge_sdk.cloud.ota.broker")

Engine = Literal["auto", "iotcore", "mosquitto"]
ENGINES: tuple[Engine, ...] = ("auto", "iotcore", "mosquitto")

_MAX_PACKET = 256 * 1024

_IOTCORE = """\
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "{address}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {packet}
max_inflight_count = 100
dynamic_filters = true
"""

_MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
persistence false
set_tcp_nodelay true
max_packet_size {packet}
log_dest stderr
log_type error
"""

_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "33554432", "MALLOC_TOP_PAD_": "4194304"}
"""Glibc gives the memory of each block back to the system otherwise: half of mosquitto's processor time."""


class EmbeddedBroker:
    """A broker that runs while the ``with`` block does.

    Parameters
    ----------
    host
        Address to listen on, as numbers or a name.
    port
        Port; 0 takes a free one.
    engine
        ``iotcore``, ``mosquitto`` or ``auto`` (the first of them that is installed).

    Raises
    ------
    PortInUseError
        Something listens on that port.
    BrokerError
        No engine is installed, or it does not come up.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, engine: Engine = "auto") -> None:
        if not 0 <= port < 65536:
            raise InputError(f"port {port} is not within 0-65535")
        self.engine = _choose(engine)
        self.host = _resolve(host)
        self.port = _check_port(self.host, port)
        self._folder = tempfile.TemporaryDirectory(prefix="edge-sdk-broker-")
        self._iotcore: Any = None
        self._mosquitto: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The broker's address as ``mqtt://host:port``."""
        return f"mqtt://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the broker's process is alive."""
        if self._mosquitto is not None:
            return self._mosquitto.poll() is None
        return self._iotcore is not None and bool(self._iotcore.is_running)

    def close(self) -> None:
        """End the broker's process and free the port. Safe to call twice."""
        if self._iotcore is not None:
            self._iotcore.stop()
        if self._mosquitto is not None:
            self._mosquitto.terminate()
            try:
                self._mosquitto.wait(5)
            except subprocess.TimeoutExpired:
                self._mosquitto.kill()
                self._mosquitto.wait()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self) -> None:
        config = Path(self._folder.name) / "broker.toml"
        address = f"{self.host}:{self.port}"
        if self.engine == "iotcore":
            import iotcore  # an optional engine: not every machine has a wheel of it

            config.write_text(_IOTCORE.format(address=address, packet=_MAX_PACKET))
            self._iotcore = iotcore.Broker(config_path=str(config))
            try:
                self._iotcore.start()
            except OSError as error:
                raise PortInUseError(f"{address} is in use: choose another --port (0 takes a free one)") from error
            except RuntimeError as error:
                raise BrokerError(f"iotcore did not start on {address}: {error}") from error
            return
        config.write_text(_MOSQUITTO.format(host=self.host, port=self.port, packet=_MAX_PACKET))
        command = [_mosquitto() or "mosquitto", "-c", str(config)]
        self._mosquitto = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, **_KEEP_MEMORY})
        self._wait_for_mosquitto(address)

    def _wait_for_mosquitto(self, address: str, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.running:
            try:
                socket.create_connection((self.host, self.port), timeout=0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        raise BrokerError(f"mosquitto did not start on {address}")


def _mosquitto() -> str | None:
    return shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/opt/homebrew/sbin") or shutil.which("mosquitto")


def _choose(engine: Engine) -> Engine:
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    has_iotcore = importlib.util.find_spec("iotcore") is not None
    if engine in ("auto", "iotcore") and has_iotcore:
        return "iotcore"
    if engine in ("auto", "mosquitto") and _mosquitto() is not None:
        return "mosquitto"
    wanted = "neither iotcore nor mosquitto" if engine == "auto" else f"{engine} not"
    raise BrokerError(f"{wanted} found: pip install iotcore, or install the package mosquitto")


def _resolve(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise InputError(f"host {host!r} is not an IPv4 address or a name that has one") from error


def _check_port(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(f"{host}:{port} is in use: choose another --port (0 takes a free one)") from error
            raise BrokerError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        return int(probe.getsockname()[1])
