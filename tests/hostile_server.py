"""Attacks a real server while honest clients use it, then changes its version under load.

    python tests/hostile_server.py [--seconds 60] [--switches 50] [--preset demo]

Prints figures as JSON: how long honest clients and health checks waited, what they were answered, and
the memory of the server's processes. A model with random weights is made first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serving import NAME, Server, make_version, serving
from stub_server import children

from components.export.manifest import write_manifest
from components.export.pointer import Pointer
from components.export.promoting import promote
from components.export.registry import RegisteredModel

PREDICT = f"/v1/models/{NAME}:predict"
TEXT = "the cat sat on the mat and the friends of the cat were unfriendly to it"
WORDS = 20
"""Length of an honest text."""
PAUSE = 0.5
"""Seconds between an honest client's requests."""


def body(signature: str, **inputs: Any) -> bytes:
    return json.dumps({"signature_name": signature, "inputs": inputs}).encode()


HONEST = body("score", texts=[" ".join((TEXT * 2).split()[:WORDS])])
TOO_LONG = body("score", texts=["!" * 131_072])
COSTLY = (
    body("score", texts=["!" * 32_000]),
    body("embed", texts=["a " * 500]),
    body("similar", words=[f"word{number}" for number in range(1024)], k=100),
    body("next_word", texts=["a " * 120] * 256, k=1000),
)


def request(content: bytes, method: str = "POST", path: str = PREDICT) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Client:
    """A connection that is opened again when the server has closed it."""

    def __init__(self, port: int):
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, message: bytes) -> tuple[int, float]:
        """Returns status (0: hung up) and seconds."""
        started = time.monotonic()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(message)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            status = int(head.split()[1])
            if b"connection: close" in head:
                self.close()
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            status = 0
        return status, time.monotonic() - started

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Figures:
    """What a kind of client saw."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.seconds) or [0.0]
        return {
            "requests": len(self.seconds),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "p50_ms": round(1000 * ordered[len(ordered) // 2]),
            "p99_ms": round(1000 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]),
            "max_ms": round(1000 * ordered[-1]),
        }


async def ask_again(client: Client, message: bytes, figures: Figures, pause: float) -> None:
    """Asks the same over and over; each answer counts."""
    while True:
        status, seconds = await client.ask(message)
        figures.statuses[status] += 1
        figures.seconds.append(seconds)
        await asyncio.sleep(pause)


async def annoy(port: int, message: bytes, stay: float) -> None:
    """Sends something, reads nothing, and leaves after some seconds; over and over."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(message)
            await asyncio.sleep(stay)
            writer.transport.abort()
        await asyncio.sleep(0.01)


async def attack(port: int, scale: float) -> None:
    """Attacks until it is cancelled: idle, half headers, deaf, leaving, costly."""
    many = max(1, round(50 * scale))
    deaf = COSTLY[1]
    tasks: list[Awaitable[None]] = [
        *(annoy(port, b"", 30.0) for _ in range(round(400 * scale))),
        *(annoy(port, b"POST / HTTP/1.1\r\nhost: local", 30.0) for _ in range(many)),
        *(annoy(port, request(deaf), 30.0) for _ in range(many)),
        *(annoy(port, request(COSTLY[0]), 0.2) for _ in range(many)),
        *(ask_again(Client(port), request(one), Figures(), 0.0) for one in (*COSTLY, TOO_LONG)),
    ]
    await asyncio.gather(*tasks)


class Memory:
    """Resident memory of a server, in MB: of its own process, and of those of versions."""

    def __init__(self, server: Server):
        self._server = server
        self.own: list[float] = []
        self.versions: list[float] = []

    def look(self) -> None:
        self.own.append(self._server.memory_mb())
        for pid in children(self._server.process.pid):
            with contextlib.suppress(OSError, AssertionError):
                self.versions.append(self._server.memory_mb(pid))

    def summary(self) -> dict[str, int]:
        return {
            "server_max_mb": round(max(self.own)),
            "version_max_mb": round(max(self.versions)),
        }


async def under_attack(server: Server, *, seconds: float, scale: float) -> dict[str, Any]:
    """Returns what honest clients see while others attack from another process."""
    honest, health, memory = Figures(), Figures(), Memory(server)
    memory.look()
    before = memory.summary()
    attackers = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--attack", str(server.port), "--scale", str(scale)
    )
    clients = [ask_again(Client(server.port), request(HONEST), honest, PAUSE) for _ in range(20)]
    check = ask_again(Client(server.port), request(b"", "GET", "/healthz"), health, 0.1)
    tasks = [asyncio.ensure_future(one) for one in (*clients, check)]
    for _ in range(round(seconds / 0.2)):
        await asyncio.sleep(0.2)
        memory.look()
    attackers.kill()
    await attackers.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    found = {"honest": honest.summary(), "health": health.summary()}
    return {**found, "memory_before": before, "memory": memory.summary()}


async def while_switching(
    server: Server, model: RegisteredModel, *, switches: int
) -> dict[str, Any]:
    """Returns what 20 clients see while versions are promoted in turn, each loaded anew."""
    honest, totals = Figures(), []
    tasks = [
        asyncio.ensure_future(ask_again(Client(server.port), request(HONEST), honest, PAUSE))
        for _ in range(20)
    ]
    versions = model.versions()
    for at in range(1, switches + 1):
        number = versions[at % len(versions)]
        await asyncio.to_thread(promote, model, number)
        await until(lambda: server.ask("GET", "/healthz")[1]["version"] == number)  # noqa: B023
        await until(lambda: len(children(server.process.pid)) <= 2)
        memory = Memory(server)
        memory.look()
        totals.append(memory.own[0] + sum(memory.versions))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    steady = totals[2:] or totals  # the first ones still load the second process
    return {
        "switches": switches,
        "honest": honest.summary(),
        "total_mb": [round(min(steady)), round(max(steady))],
        "growth": round(max(steady) / steady[0] - 1, 3),
    }


async def until(condition: Callable[[], bool]) -> None:
    while not await asyncio.to_thread(condition):
        await asyncio.sleep(0.1)


def add_versions(model: RegisteredModel) -> None:
    """Copies version 1 twice, so that versions promoted in turn are loaded each time."""
    for number in (2, 3):
        folder = model.version_folder(number)
        shutil.copytree(model.version_folder(1), folder)
        write_manifest(folder, {"checkpoint": str(number)})
    model.write_pointer(Pointer(1))


async def run(
    model: RegisteredModel, *, seconds: float, switches: int, scale: float = 1.0
) -> dict[str, Any]:
    """Returns all figures of a model's server."""
    with serving(model.folder) as server:
        found = {"attack": await under_attack(server, seconds=seconds, scale=scale)}
        print(json.dumps(found, indent=2), flush=True)
        found["switching"] = await while_switching(server, model, switches=switches)
        print(json.dumps(found["switching"], indent=2), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--switches", type=int, default=50)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--registry", help="where to keep the model; default: nowhere")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of attackers")
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(attack(options.attack, options.scale))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server is ended, too
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder:
        model = RegisteredModel(options.registry or folder, NAME)
        if not model.versions():
            make_version(Path(model.version_folder(1)), seed=1, preset=options.preset)
            add_versions(model)
        asyncio.run(
            run(model, seconds=options.seconds, switches=options.switches, scale=options.scale)
        )


if __name__ == "__main__":
    main()
