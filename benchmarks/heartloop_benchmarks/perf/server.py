"""A small OpenAI-compatible server for load: ``python -m heartloop_benchmarks.perf.server``.

Raw asyncio protocol, a fixed answer, so that the client is what is measured. Prints ``READY <port>``.
Loopback only; ends with its parent (when standard input closes) or after ``--max-seconds``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
from collections import deque
from collections.abc import Callable

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


def _answer(words: int) -> bytes:
    text = "Adding the parts, step by step, and checking each against the last. " * (words // 12)
    body = orjson.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "load",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text + "\\boxed{42}"},
                }
            ],
            "usage": {"prompt_tokens": 40, "completion_tokens": words, "total_tokens": 40 + words},
        }
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


class _Slots:
    """At most so many calls run; the rest queue, as in a GPU server."""

    def __init__(self, slots: int, latency: Callable[[], float]) -> None:
        self.free = slots
        self.latency = latency
        self.waiting: deque[Callable[[], None]] = deque()

    def run(self, done: Callable[[], None]) -> None:
        if not self.free:
            self.waiting.append(done)
            return
        self.free -= 1
        asyncio.get_running_loop().call_later(self.latency(), self._finish, done)

    def _finish(self, done: Callable[[], None]) -> None:
        done()
        self.free += 1
        if self.waiting:
            self.run(self.waiting.popleft())


class _Connection(asyncio.Protocol):
    def __init__(self, slots: _Slots, answer: bytes) -> None:
        self.slots, self.answer = slots, answer
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self.buffer[:end])
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            self.slots.run(self._reply)

    def _reply(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.answer)


async def _serve(arguments: argparse.Namespace) -> None:
    rng = random.Random(0)
    seconds: float = arguments.latency_ms / 1000
    sigma: float = arguments.jitter

    def latency() -> float:
        # Lognormal with mean `seconds`: its median lies sigma^2 / 2 below.
        return seconds * rng.lognormvariate(-sigma * sigma / 2, sigma) if sigma else seconds

    slots = _Slots(arguments.slots, latency)
    answer = _answer(100)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(slots, answer), "127.0.0.1", arguments.port)
    print("READY", server.sockets[0].getsockname()[1], flush=True)
    parent_gone = loop.run_in_executor(None, sys.stdin.read)
    await asyncio.wait([parent_gone], timeout=arguments.max_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--jitter", type=float, default=0.0, help="sigma of the lognormal latency")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--max-seconds", type=float, default=900.0)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
