"""Fuzzes the server's HTTP/2 and its header blocks, led by what they run through, under AddressSanitizer.

The two modules are compiled with clang into build/fuzz-http2 and fed by libFuzzer, which the package atheris brings.
``hpack``: our reader of header blocks must agree with the one of the package hpack. ``http2``: whatever a client
sends, in whatever pieces, between whatever answers, no frame that it gets breaks a rule, and nothing is kept when it
goes. An input that finds a fault is left in build/fuzz-http2. Needs, on Debian: clang libclang-rt-14-dev.

example:
  python tools/fuzz_http2.py hpack --seconds 600
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "fuzz-http2"
FLAGS = ["-shared", "-fPIC", "-O1", "-g", "-w", "-fsanitize=address,fuzzer-no-link", "-fno-omit-frame-pointer"]
DATA, HEADERS, RST_STREAM, GOAWAY = 0, 1, 3, 7
STREAM = b"/several"


def build():
    """Compile the modules; return where the libraries are that have to be loaded first."""
    sources = ROOT / "cloud" / "server"
    BUILD.mkdir(parents=True, exist_ok=True)
    directives = "language_level=3,boundscheck=False,wraparound=False,initializedcheck=False,cdivision=True"
    for name in ("hpack", "http2"):
        made = BUILD / f"{name}.c"
        cython = [sys.executable, "-m", "cython", "-X", directives, "-o", made, sources / f"{name}.pyx"]
        subprocess.run(cython, check=True, cwd=ROOT)
        include = f"-I{sysconfig.get_paths()['include']}"
        subprocess.run(["clang", *FLAGS, include, made, "-o", BUILD / f"{name}.so"], check=True)
    return Path(importlib.util.find_spec("atheris").origin).parents[1] / "asan_with_fuzzer.so"


def load(name):
    """Return a module as it was compiled here, in the place of the usual one."""
    whole = f"edge_sdk.cloud.server.{name}"
    spec = importlib.util.spec_from_file_location(whole, BUILD / f"{name}.so")
    sys.modules[whole] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hpack_target():
    """Return what compares two readers of header blocks on blocks that follow one another."""
    from hpack import Decoder, HPACKError

    from edge_sdk.errors import InputError

    ours_class = load("hpack").Decoder

    def check(data):
        ours, other = ours_class(), Decoder(max_header_list_size=2**20)
        other.max_allowed_table_size = 4096
        while data:
            block, data = data[1 : 1 + data[0]], data[1 + data[0] :]
            if data[:1] == b"\0":  # one longer than a byte says
                block, data = block + data[1:], b""
            try:
                expected = [(bytes(name), bytes(value)) for name, value in other.decode(block, raw=True)]
            except (HPACKError, UnicodeDecodeError, IndexError):
                expected = None
            found, why = None, ""
            try:
                found = ours.decode(block)
            except InputError as error:
                why = str(error)
            if why:
                refused = ours.malformed or why in ("headers are too large", "a header holds no number where it should")
                assert expected is None or refused, (block, expected, why)
                return
            assert found == expected, (block, expected, found)

    return check


def frames(data):
    """Yield kind, flags, stream and contents of each frame."""
    while data:
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + size, "a frame is not whole"
        yield data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]
        data = data[9 + size :]


class Client:
    """What a client makes of the frames that it gets."""

    def __init__(self):
        self.begun, self.ended, self.reset, self.left = set(), set(), set(), False

    def get(self, data):
        """Read what the server says; raise where it breaks a rule."""
        for kind, flags, stream, contents in frames(data):
            assert not self.left, "it goes on after its farewell"
            if kind == GOAWAY:
                self.left = int.from_bytes(contents[4:8], "big") != 0
            elif kind in (DATA, HEADERS):
                assert stream not in self.ended | self.reset, "it goes on with a call that is over"
                assert (kind == HEADERS) or stream in self.begun, "data come before headers"
                if kind == HEADERS:
                    assert stream not in self.begun or flags & 1, "headers come twice"
                    self.begun.add(stream)
                if flags & 1:
                    self.ended.add(stream)
            elif kind == RST_STREAM:
                assert stream not in self.reset, "a call is reset twice"
                self.reset.add(stream)


def act(connection, streams, what, number):
    """Do what a server might do now."""
    stream = streams[number % len(streams)] if streams else None
    if what == 6:
        connection.go_away()
    elif what == 7:
        connection.forgive()
    elif what == 8:
        connection.limit(number)
    elif stream is not None and what == 1:
        connection.respond(stream, bytes(number * 400))
    elif stream is not None and what == 2:
        connection.send(stream, bytes(number * 400))
    elif stream is not None and what == 3:
        connection.end(stream, number % 17, "ä" * number, [("grpc-retry-pushback-ms", "7")])
    elif stream is not None and what == 4:
        connection.reset(stream, number)
    elif stream is not None and what == 5:
        connection.read(stream)


def http2_target():
    """Return what feeds a connection: each part of an input begins with how long it is, and what is done then."""
    load("hpack")
    http2 = load("http2")
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

    def check(data):
        budget, client, streams = http2.Budget(300_000), Client(), []
        connection = http2.Connection(frozenset([STREAM]), max_streams=4, max_message_bytes=200_000, budget=budget)
        if data[:3] != b"PRI":
            connection.receive(bytearray(hello), len(hello))
        while data:
            size, what, number = data[0], data[0] >> 4, data[-1]
            piece, data = bytearray(data[1 : 1 + size * 4]), data[1 + size * 4 :]
            for stream in connection.receive(piece, len(piece)):
                if stream not in streams:
                    streams.append(stream)
            act(connection, streams, what, number)
            client.get(connection.take())
            assert 0 <= budget.held <= budget.most + 300_000, budget.held
            assert 0 <= budget.calls <= 4, budget.calls
        connection.lose()
        assert (budget.held, budget.calls) == (0, 0)

    return check


TARGETS = {"hpack": hpack_target, "http2": http2_target}


def main():
    """Fuzz one target, or start oneself anew so that it can be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seeds", type=Path, help="folder with inputs to begin with")
    arguments = parser.parse_args()
    if shutil.which("clang") is None or importlib.util.find_spec("atheris") is None:
        sys.exit("fuzzing needs clang (on Debian: apt-get install clang libclang-rt-14-dev) and pip install atheris")
    if "asan_with_fuzzer" not in os.environ.get("LD_PRELOAD", ""):
        options = {"ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc", "LD_PRELOAD": str(build())}
        os.execve(sys.executable, [sys.executable, "-P", *sys.argv], {**os.environ, **options})  # noqa: S606
    import atheris

    check = TARGETS[arguments.target]()
    corpus = BUILD / f"corpus-{arguments.target}"
    corpus.mkdir(exist_ok=True)
    more = [str(arguments.seeds)] if arguments.seeds else []
    limits = ["-rss_limit_mb=2000", "-timeout=20", "-max_len=20000", f"-artifact_prefix={BUILD}/"]
    atheris.Setup([sys.argv[0], f"-max_total_time={arguments.seconds}", *limits, str(corpus), *more], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
