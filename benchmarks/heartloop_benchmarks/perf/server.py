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
from functools import partial

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


_SUM = re.compile(rb"What is (\d+) \+ (\d+)\?")
_PLACE = b"#SUM"
_WIDTH = 12


def _answer(words: int) -> tuple[bytes, bytes]:
    """What stands before and behind the sum; a sum takes the place of spaces, so that lengths agree."""
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
                    "message": {"role": "assistant", "content": text + "\\boxed{" + _PLACE.decode() + "}"},
                }
            ],
            "usage": {"prompt_tokens": 40, "completion_tokens": words, "total_tokens": 40 + words},
        }
    )
    length = len(body) - len(_PLACE) + _WIDTH
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % length
    before, _, behind = body.partition(_PLACE)
    return head + before, behind


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
    def __init__(self, slots: _Slots, answer: tuple[bytes, bytes]) -> None:
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
            asked = _SUM.search(self.buffer, end, whole)
            total = b"%d" % (int(asked[1]) + int(asked[2])) if asked else b"42"
            self.buffer = self.buffer[whole:]
            self.slots.run(partial(self._reply, total))

    def _reply(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.answer[0] + answer.ljust(_WIDTH) + self.answer[1])


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
