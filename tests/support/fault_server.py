"""An OpenAI-compatible server on loopback that fails as it is told, and remembers every call.

In a test: ``with FaultServer(script=["500", "ok"]) as server: ... server.base_url``. As a process:
``python tests/support/fault_server.py --port 0 --rate 500=0.1 --delay-ms 5 40 --log calls.jsonl`` prints
``READY <port>`` and serves until it is killed.

A fault is a name out of FAULTS. ``script`` names one for each chat call in the order of arrival (then
``ok``), or is a function ``(body, number) -> name``. ``rates`` draws them from the request, how often
it was seen, and ``seed``, so a retry draws anew and a rerun draws the same. Delays likewise.

Answers are functions of the request's body alone: "What is A + B?" is answered with the sum in a
``\\boxed{}``, wrong (one too many) with probability ``wrong``; anything else with a number made of the
body's hash.

The log has one JSON line when a call arrives and one when it is over: ``{"event": "arrived" |
"answered" | "cancelled", "id", "t", "messages" (hash), "request" (hash of the whole body), "fault"}``,
and "tokens" (in all) where the answer told them.
Lines are written with one unbuffered append each, so the log outlives the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

_ERRORS: dict[str, tuple[int, dict[str, str], Any]] = {
    "400": (400, {}, {"message": "'messages' is too odd", "type": "invalid_request_error", "code": None}),
    "401": (401, {}, {"message": "Incorrect API key provided: {key}.", "code": "invalid_api_key"}),
    "402": (402, {}, {"message": "Insufficient credits", "code": 402}),
    "403": (403, {}, {"message": "Project {key} does not have access", "code": "forbidden"}),
    "404": (404, {}, {"message": "The model does not exist", "code": "model_not_found"}),
    "408": (408, {}, {"message": "Request timeout"}),
    "409": (409, {}, {"message": "Conflict"}),
    "429": (429, {}, {"message": "Rate limit reached", "code": "rate_limit_exceeded"}),
    "429-seconds": (429, {"retry-after": "2"}, {"message": "Rate limit reached"}),
    "429-date": (429, {"retry-after": "{date}"}, {"message": "Rate limit reached"}),
    "429-ms": (429, {"retry-after-ms": "250", "retry-after": "9"}, {"message": "Rate limit reached"}),
    "429-reset": (
        429,
        {
            "x-ratelimit-remaining-requests": "7",
            "x-ratelimit-reset-requests": "1h",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "1m1.5s",
        },
        {"message": "Rate limit reached"},
    ),
    "429-too-large": (
        429,
        {},
        {
            "message": "Request too large for m in organization org-1 on tokens per min (TPM): Limit 30,000, "
            "Requested 45,012. The input or output tokens must be reduced in order to run successfully.",
            "type": "tokens",
            "code": "rate_limit_exceeded",
        },
    ),
    "429-quota": (429, {}, {"message": "You exceeded your current quota", "code": "insufficient_quota"}),
    "500": (500, {}, {"message": "The server had an error", "type": "server_error"}),
    "502": (502, {}, "<html><body>Bad Gateway</body></html>"),
    "503": (503, {"retry-after": "3"}, {"message": "Overloaded"}),
    "504": (504, {}, ""),
    "529": (529, {}, {"message": "Overloaded"}),
    "context_length": (
        400,
        {},
        {
            "message": "This model's maximum context length is 8192 tokens. However, you requested 9000.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        },
    ),
    "context_length_vllm": (
        400,
        {},
        {
            "message": "This model's maximum context length is 2048 tokens. However, your request has 3031 "
            "input tokens. Please reduce the length of the input messages.",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        },
    ),
    "context_length_llamacpp": (
        400,
        {},
        {
            "code": 400,
            "message": "request (3031 tokens) exceeds the available context size (2048 tokens)",
            "type": "exceed_context_size_error",
        },
    ),
    "content_filter_400": (
        400,
        {},
        {
            "message": "The response was filtered due to the prompt",
            "param": "prompt",
            "code": "content_filter",
        },
    ),
    "content_filter_azure": (
        400,
        {},
        {
            "message": "The response was filtered due to the prompt triggering the content policy.",
            "param": "prompt",
            "code": None,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
        },
    ),
    "404-azure": (
        404,
        {},
        {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."},
    ),
    "429-azure": (
        429,
        {"retry-after": "26"},
        {"code": "429", "message": "Requests have exceeded token rate limit of your tier."},
    ),
}
_CONNECTION = (
    *("reset", "eof", "truncated", "truncated_json", "malformed", "not_http", "hang", "drip", "bad_gzip"),
)
_ANSWERS = (
    *("ok", "length", "content_filter", "refusal", "null_content", "reasoning", "parts", "no_usage"),
    *("bad_usage", "empty_choices", "no_choices", "no_message", "wrong_types", "not_object", "error_200"),
    *("hidden_reasoning", "surrogate", "nan", "tool_calls"),
)
FAULTS = (*_ERRORS, *_CONNECTION, *_ANSWERS)

_CHAT = re.compile(r"(?:/v1|/openai/v1|/openai/deployments/[^/]+)/chat/completions")
"""Where chat calls may go: as OpenAI has it, and Azure's two."""

_SUM = re.compile(r"What is (-?\d+) \+ (-?\d+)\?")

Script = Sequence[str] | Callable[[dict[str, Any], int], str]


class InThread:
    """A server in a thread of its own between ``with`` and its end.

    A subclass has ``serve``, which calls ``on_ready``, awaits :meth:`_until_stopped` and cleans up.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, on_ready: Callable[[], None], *, signals: bool = False) -> None:
        raise NotImplementedError

    async def _until_stopped(self, on_ready: Callable[[], None], signals: bool) -> None:
        """Says that it is ready, and returns when told to stop: by leaving ``with``, or by a signal."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopped.set)
        on_ready()
        await stopped.wait()

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(ready.set)), daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError(f"the {type(self).__name__} did not start")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()
        assert self._thread is not None
        self._thread.join(10)


class FaultServer(InThread):
    """The server, in a thread of its own between ``with`` and its end.

    Attributes:
        calls: every chat call so far: ``{"id", "body", "headers", "target", "fault", "state"}``, the target
            being path and query, the state "running", "answered" or "cancelled" (the client hung up, or the
            server was told to).
        running, peak: chat calls at work now, and the most there have been.
        connections, connections_made: open connections, and all there have been.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        rates: Mapping[str, float] | None = None,
        delay_ms: tuple[float, float] = (0.0, 0.0),
        wrong: float = 0.0,
        seed: int = 0,
        models: Sequence[str] = ("test-model",),
        api_key: str | None = None,
        refuses: Sequence[str] = (),
        log: str | Path | None = None,
        port: int = 0,
        rpm: float = 0.0,
        tpm: float = 0.0,
    ) -> None:
        """
        Args:
            rpm, tpm: requests and tokens a minute (0: any), as buckets of a second's worth; beyond them 429,
                with Retry-After.
            api_key: calls with another key get a 401.
            refuses: request fields that get OpenAI's unsupported_parameter or unsupported_value error.
        """
        super().__init__(port)
        names = [*(() if callable(script) else script), *(rates or ())]
        unknown = sorted(set(names) - set(FAULTS))
        if unknown:
            raise ValueError(f"no such fault: {', '.join(unknown)}")
        self.script, self.rates, self.delay_ms = script, dict(rates or {}), delay_ms
        self.wrong, self.seed, self.models = wrong, seed, list(models)
        self.api_key, self.refuses = api_key, set(refuses)
        self.calls: list[dict[str, Any]] = []
        self._buckets = [_Bucket(rpm) if rpm else None, _Bucket(tpm) if tpm else None]
        self.running = self.peak = self.connections = self.connections_made = 0
        self._seen: Counter[str] = Counter()
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def count(self, state: str) -> int:
        return sum(call["state"] == state for call in list(self.calls))

    # --- life ------------------------------------------------------------------------------------

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self._log is not None:
            os.close(self._log)
            self._log = None

    async def serve(self, on_ready: Callable[[], None], *, signals: bool = False) -> None:
        open_now: set[_Connection] = set()
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self, open_now), "127.0.0.1", self.port, backlog=4096
        )
        self.port = server.sockets[0].getsockname()[1]
        await self._until_stopped(on_ready, signals)
        server.close()
        for connection in list(open_now):
            connection.abort()
        await asyncio.sleep(0)

    # --- one call --------------------------------------------------------------------------------

    async def chat(
        self, connection: _Connection, body: dict[str, Any], headers: dict[str, str], target: str = ""
    ) -> None:
        key = _hash(body)
        occurrence = self._seen[key]
        self._seen[key] += 1
        draw = random.Random(f"{self.seed}/{key}/{occurrence}")
        fault = self._fault(body, headers, draw)
        wait = self._over_limits(body, key)
        if wait:
            fault = "429"
        call = {"id": len(self.calls), "body": body, "headers": headers, "fault": fault, "state": "running"}
        call["target"] = target
        if wait:
            call["retry_after_ms"] = f"{1000 * wait + 1:.0f}"
        self.calls.append(call)
        self.running += 1
        self.peak = max(self.peak, self.running)
        self._note("arrived", call)
        try:
            low, high = self.delay_ms
            if high:
                await asyncio.sleep(draw.uniform(low, high) / 1000)
            await self._reply(connection, call, body, headers, key)
            call["state"] = "answered"
        except asyncio.CancelledError:
            call["state"] = "cancelled"
            raise
        finally:
            self.running -= 1
            self._note(str(call["state"]), call)

    def _over_limits(self, body: dict[str, Any], key: str) -> float:
        """Seconds until the call would be within the limits; 0 where it is."""
        weights = (1, self._answer("ok", body, key)["usage"]["total_tokens"] if self._buckets[1] else 0)
        pairs = [
            (bucket, weight)
            for bucket, weight in zip(self._buckets, weights, strict=True)
            if bucket is not None
        ]
        wait = max((bucket.wait(weight) for bucket, weight in pairs), default=0.0)
        if not wait:
            for bucket, weight in pairs:
                bucket.level -= weight
        return wait

    def _fault(self, body: dict[str, Any], headers: dict[str, str], draw: random.Random) -> str:
        if self.api_key is not None and _key_in(headers) != self.api_key:
            return "401"
        refused = next((name for name in sorted(self.refuses) if name in body), None)
        if refused is not None:
            return f"refuses:{refused}"
        if callable(self.script):
            return self.script(body, len(self.calls))
        scripted = sum(not c["fault"].startswith("refuses:") for c in self.calls)
        if scripted < len(self.script):
            return self.script[scripted]
        point = draw.random()
        for name, rate in self.rates.items():
            if point < rate:
                return name
            point -= rate
        return "ok"

    async def _reply(
        self,
        connection: _Connection,
        call: dict[str, Any],
        body: dict[str, Any],
        headers: dict[str, str],
        key: str,
    ) -> None:
        fault: str = call["fault"]
        if fault.startswith("refuses:"):
            connection.send_json(400, _refusal(fault.partition(":")[2]))
        elif fault in _ERRORS:
            status, more, error = _ERRORS[fault]
            sent = _key_in(headers)
            date = formatdate(time.time() + 5, usegmt=True)
            more = {name: value.replace("{date}", date) for name, value in more.items()}
            if "retry_after_ms" in call:
                more["retry-after-ms"] = call["retry_after_ms"]
            if isinstance(error, str):
                connection.send(status, error.encode(), more, "text/html")
            else:
                error = {**error, "message": error["message"].replace("{key}", sent)}
                connection.send_json(status, {"error": error}, more)
        elif fault in _CONNECTION:
            await self._break(connection, fault, self._answer("ok", body, key))
        else:
            answer = self._answer(fault, body, key)
            if isinstance(answer, dict) and isinstance(answer.get("usage"), dict):
                call["tokens"] = answer["usage"].get("total_tokens")
            connection.send_json(200, answer)

    async def _break(self, connection: _Connection, fault: str, answer: Any) -> None:
        content = json.dumps(answer).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(content)
        if fault == "reset":
            connection.reset()
        elif fault == "eof":
            connection.abort()
        elif fault == "truncated":
            connection.write(head + b"\r\n" + content[: len(content) // 2])
            connection.close()
        elif fault == "truncated_json":
            connection.send(200, content[: len(content) // 2])
        elif fault == "malformed":
            connection.send(200, b"{'choices': oops")
        elif fault == "not_http":
            connection.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
            connection.close()
        elif fault == "bad_gzip":
            connection.send(200, content, {"content-encoding": "gzip"})
        elif fault == "hang":
            await asyncio.Event().wait()
        else:  # drip: the head at once, then a byte now and then
            connection.write(head + b"\r\n")
            for byte in content:
                connection.write(bytes([byte]))
                await asyncio.sleep(0.05)

    def _answer(self, fault: str, body: dict[str, Any], key: str) -> Any:
        text = self._text(body.get("messages") or [], key)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 4096
        words = text.split()
        if fault == "length":
            limit = min(limit, len(words) // 2)
        if len(words) > limit:
            message["content"] = text = " ".join(words[:limit])
            choice["finish_reason"] = "length"
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [_logprob(word, body) for word in text.split()]}
        prompt = sum(len(str(m.get("content", "")).split()) for m in body.get("messages") or [])
        usage: Any = {"prompt_tokens": prompt, "completion_tokens": len(text.split())}
        usage["total_tokens"] = prompt + usage["completion_tokens"]
        data: dict[str, Any] = {
            "id": f"chatcmpl-{key}",
            "object": "chat.completion",
            "created": 0,
            "model": body.get("model"),
            "choices": [choice],
            "usage": usage,
        }
        return _distorted(fault, data)

    def _text(self, messages: list[Any], key: str) -> str:
        for message in reversed(messages):
            found = _SUM.search(str(message.get("content"))) if message.get("role") == "user" else None
            if found:
                wrong = random.Random(f"{self.seed}/{key}").random() < self.wrong
                total = int(found[1]) + int(found[2]) + wrong
                return f"I add the two numbers. The answer is \\boxed{{{total}}}."
        return f"The answer is \\boxed{{{int(key, 16) % 1000}}}."

    def _note(self, event: str, call: dict[str, Any]) -> None:
        if self._log is None:
            return
        line = {"event": event, "id": call["id"], "t": time.time(), "fault": call["fault"]}
        line["messages"] = _hash(call["body"].get("messages"))
        line["request"] = _hash(call["body"])
        if "tokens" in call:
            line["tokens"] = call["tokens"]
        os.write(self._log, json.dumps(line).encode() + b"\n")


class _Bucket:
    """Fills at ``rate`` a minute; holds a second's worth."""

    def __init__(self, rate: float) -> None:
        self.second = self.level = max(1.0, rate / 60)
        self.rate = rate / 60
        self.at = time.monotonic()

    def wait(self, weight: float) -> float:
        now = time.monotonic()
        self.level = min(self.second, self.level + (now - self.at) * self.rate)
        self.at = now
        missing = min(weight, self.second) - self.level
        return missing / self.rate if missing > 0 else 0.0


def _distorted(fault: str, data: dict[str, Any]) -> Any:
    """``data``, the right answer, changed as the fault wants it."""
    choice, usage = data["choices"][0], data["usage"]
    message = choice["message"]
    if fault == "content_filter":
        choice["finish_reason"] = "content_filter"
    elif fault == "refusal":
        message.update(content=None, refusal="I can't help with that.")
    elif fault in ("null_content", "tool_calls"):
        message["content"] = None
        choice["finish_reason"] = "tool_calls" if fault == "tool_calls" else "stop"
    elif fault == "reasoning":
        message["reasoning_content"] = "Let me think."
        usage.update(
            completion_tokens_details={"reasoning_tokens": 3}, prompt_tokens_details={"cached_tokens": 2}
        )
        usage["completion_tokens"] += 3
    elif fault == "hidden_reasoning":  # outside completion_tokens, as xAI counts
        usage.update(completion_tokens_details={"reasoning_tokens": 300})
        usage["total_tokens"] += 300
    elif fault == "parts":
        thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
        message["content"] = [thinking, {"type": "text", "text": message["content"]}]
    elif fault == "no_usage":
        del data["usage"]
    elif fault == "bad_usage":
        data["usage"] = {"prompt_tokens": "many", "completion_tokens": -1}
    elif fault == "empty_choices":
        data["choices"] = []
    elif fault == "no_choices":
        del data["choices"]
    elif fault == "no_message":
        data["choices"] = [{"index": 0}]
    elif fault == "wrong_types":
        message["content"] = 42
    elif fault == "not_object":
        return [data]
    elif fault == "error_200":
        return {"error": {"message": "Provider returned error", "code": 502}}
    elif fault == "surrogate":
        message["content"] = "half \ud83d of a pair"
    elif fault == "nan":
        choice["logprobs"] = {"content": [{"token": "a", "logprob": float("-inf"), "top_logprobs": []}]}
    return data


def _logprob(word: str, body: dict[str, Any]) -> dict[str, Any]:
    top = [{"token": f"{word}{i}", "logprob": -1.0 - i} for i in range(body.get("top_logprobs") or 0)]
    return {"token": word, "logprob": -0.5, "top_logprobs": top}


def _refusal(name: str) -> dict[str, Any]:
    if name == "logprobs":
        return {"error": {"message": "You are not allowed to request logprobs from this model", "code": None}}
    kind = "unsupported_value" if name in ("temperature", "top_p") else "unsupported_parameter"
    message = f"Unsupported {kind[12:]}: '{name}' is not supported with this model."
    return {"error": {"message": message, "type": "invalid_request_error", "param": name, "code": kind}}


def _key_in(headers: Mapping[str, str]) -> str:
    return headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")


def _hash(value: Any) -> str:
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request at a time; a client that leaves cancels its call."""

    def __init__(self, server: FaultServer, open_now: set[_Connection]) -> None:
        self.server, self.open_now = server, open_now
        self.buffer = b""
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.open_now.add(self)
        self.server.connections += 1
        self.server.connections_made += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_now.discard(self)
        self.server.connections -= 1
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.task is None or self.task.done():
            self._next()

    def _next(self) -> None:
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        content, self.buffer = rest[:length], rest[length:]
        method, path, _ = first.split(" ", 2)
        self.task = asyncio.get_running_loop().create_task(self._handle(method, path, headers, content))
        self.task.add_done_callback(self._handled)

    def _handled(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.send_json(599, {"error": {"message": f"bug in the fault server: {task.exception()!r}"}})
        if self.buffer:
            self._next()

    async def _handle(self, method: str, path: str, headers: dict[str, str], content: bytes) -> None:
        target, path = path, path.partition("?")[0]
        if method == "POST" and _CHAT.fullmatch(path):
            await self.server.chat(self, json.loads(content), headers, target)
        elif (method, path) == ("GET", "/v1/models"):
            self.send_json(200, {"object": "list", "data": [{"id": name} for name in self.server.models]})
        else:
            self.send_json(404, {"detail": "Not Found"})

    # --- answering -------------------------------------------------------------------------------

    def send_json(self, status: int, data: Any, headers: Mapping[str, str] | None = None) -> None:
        self.send(status, json.dumps(data).encode(), headers)

    def send(
        self,
        status: int,
        content: bytes,
        headers: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> None:
        lines = [f"HTTP/1.1 {status} Status", f"content-type: {kind}", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.write("\r\n".join([*lines, "", ""]).encode() + content)

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()

    def abort(self) -> None:
        assert self.transport is not None
        self.transport.abort()

    def reset(self) -> None:
        """RST in place of FIN."""
        assert self.transport is not None
        peer: socket.socket = self.transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", action="append", default=[], metavar="FAULT=PROBABILITY")
    parser.add_argument("--delay-ms", type=float, nargs=2, default=(0.0, 0.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--wrong", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--log", type=Path)
    parser.add_argument("--rpm", type=float, default=0.0)
    parser.add_argument("--tpm", type=float, default=0.0)
    args = parser.parse_args()
    server = FaultServer(
        rates={name: float(p) for name, _, p in (rate.partition("=") for rate in args.rate)},
        delay_ms=tuple(args.delay_ms),
        wrong=args.wrong,
        seed=args.seed,
        models=args.model or ["test-model"],
        log=args.log,
        port=args.port,
        rpm=args.rpm,
        tpm=args.tpm,
    )
    asyncio.run(server.serve(lambda: print(f"READY {server.port}", flush=True), signals=True))


if __name__ == "__main__":
    main()
