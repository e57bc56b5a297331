"""Asks a server what test_other_clients.py says, with grpclib, which speaks HTTP/2 in pure Python.

python asynchronous.py ADDRESS [CA CERT KEY]
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

from grpclib.client import Channel, Stream, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError

from edge_sdk.protocol import messages, services
from edge_sdk.protocol.names import SERVICE

SIZES = [1, 2**22 + 1, 12 * 2**20, *(base - less for base in (2**14, 2**16, 2**18, 2**20) for less in range(0, 96, 5))]
TAKES, GIVES = messages.METHODS["ModelInfer"]


def told(step: str, result: object) -> None:
    print(step, result, flush=True)


def opened(address: str, *files: str, config: Configuration | None = None) -> Channel:
    host, _, port = address.rpartition(":")
    context = None
    if files:
        context = ssl.create_default_context(cafile=files[0])
        context.load_cert_chain(files[1], files[2])
        context.set_alpn_protocols(["h2"])
    return Channel(host, int(port), ssl=context, config=config)


def echo(size: int, name: str = "") -> Any:
    tensor = TAKES.InferInputTensor(name="x", datatype="UINT8", shape=[1, size])
    sent = bytes((at * 7) & 255 for at in range(256)) * (size // 256 + 1)
    return TAKES(model_name="echo", id=name, inputs=[tensor], raw_input_contents=[sent[:size]])


def slow(turns: int) -> Any:
    tensor = TAKES.InferInputTensor(name="turns", datatype="INT64", shape=[1])
    return TAKES(model_name="slow", inputs=[tensor], raw_input_contents=[turns.to_bytes(8, "little")])


async def infer(channel: Channel, request: Any, **options: Any) -> Any:
    return await UnaryUnaryMethod(channel, f"/{SERVICE}/ModelInfer", TAKES, GIVES)(request, **options)


def stream(channel: Channel, path: str, cardinality: Cardinality, takes: Any, gives: Any) -> Stream[Any, Any]:
    return channel.request(path, cardinality, takes, gives)


def stream_infer(channel: Channel) -> Stream[Any, Any]:
    gives = messages.ModelStreamInferResponse
    return stream(channel, f"/{SERVICE}/ModelStreamInfer", Cardinality.STREAM_STREAM, TAKES, gives)


async def echoed(channel: Channel, size: int, **options: Any) -> str:
    request = echo(size)
    try:
        answer = await infer(channel, request, **options)
    except GRPCError as error:
        return f"{error.status.value} {error.message}"
    return "same" if answer.raw_output_contents[0] == request.raw_input_contents[0] else "other"


async def ended(work: Any) -> int:
    try:
        await work
    except GRPCError as error:
        return error.status.value
    except TimeoutError:
        return 4
    return 0


async def sizes(channel: Channel) -> str:
    for size in SIZES:
        if (result := await echoed(channel, size)) != "same":
            return f"{size}: {result}"
    return "same"


async def turns(channel: Channel) -> str:
    ids = []
    async with stream_infer(channel) as call:
        for number in range(5):
            await call.send_message(echo(100_000, str(number)))
            ids.append((await call.recv_message()).infer_response.id)
        await call.end()
        return ",".join(ids) + (" end" if await call.recv_message() is None else " more")


async def unhurried(channel: Channel) -> int:
    good, request = 0, echo(4 * 2**20)
    async with stream_infer(channel) as call, asyncio.TaskGroup() as tasks:

        async def write() -> None:
            for _ in range(6):
                await call.send_message(request)
            await call.end()

        tasks.create_task(write())
        await asyncio.sleep(1.5)
        async for answer in call:
            good += answer.infer_response.raw_output_contents[0] == request.raw_input_contents[0]
            await asyncio.sleep(0.05)
    return good


async def cancelled(channel: Channel) -> int:
    task = asyncio.create_task(infer(channel, slow(1_000_000)))
    await asyncio.sleep(0.1)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return 1
    return 0


async def standard(channel: Channel) -> None:
    takes, gives = services.HealthCheckRequest, services.HealthCheckResponse
    check = await UnaryUnaryMethod(channel, "/grpc.health.v1.Health/Check", takes, gives)(takes())
    told("health", gives.ServingStatus.Name(check.status))
    async with stream(channel, "/grpc.health.v1.Health/Watch", Cardinality.UNARY_STREAM, takes, gives) as call:
        await call.send_message(takes(), end=True)
        told("watch", gives.ServingStatus.Name((await call.recv_message()).status))
        await call.cancel()
    takes, gives = services.ServerReflectionRequest, services.ServerReflectionResponse
    path = f"/{services.REFLECTION[0]}/ServerReflectionInfo"
    async with stream(channel, path, Cardinality.STREAM_STREAM, takes, gives) as call:
        await call.send_message(takes(list_services="*"), end=True)
        listed = (await call.recv_message()).list_services_response.service
        told("services", ",".join(sorted(service.name for service in listed)))
        await call.recv_message()


async def steps(address: str, files: list[str]) -> None:
    channel = opened(address, *files)
    told("sizes", await sizes(channel))
    many = await asyncio.gather(*(echoed(channel, 1000 + 1000 * number) for number in range(64)))
    told("many", many.count("same"))
    told("turns", await turns(channel))
    told("unhurried", await unhurried(channel))
    told("late", await ended(infer(channel, slow(1_000_000), timeout=0.2)))
    told("cancelled", await cancelled(channel))
    try:
        await infer(channel, TAKES(model_name="grün 100 %"))
    except GRPCError as error:
        told("missing", f"{error.status.value} {error.message}")
    told("large", await ended(infer(channel, echo(17 * 2**20))))
    told("unknown", await ended(UnaryUnaryMethod(channel, f"/{SERVICE}/Nothing", TAKES, GIVES)(TAKES())))
    told("metadata", await echoed(channel, 10, metadata=[("odd-bin", b"\0\xff\n\r"), ("twice", "1"), ("twice", "2")]))
    await standard(channel)
    channel.close()
    channel = opened(address, *files, config=Configuration(_keepalive_time=0.05, _keepalive_timeout=5))
    told("pings", await ended(infer(channel, slow(200_000))))
    channel.close()


if __name__ == "__main__":
    asyncio.run(steps(sys.argv[1], sys.argv[2:]))
