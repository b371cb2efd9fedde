"""OpenAI's Batch API on loopback, small, with faults, and a memory of everything it was asked.

In a test: ``with BatchServer(seconds=0.05) as server: ... server.base_url``. As a process:
``python tests/support/batch_server.py --log FILE --faults '{"seconds": 0.2}'`` prints ``READY <port>``.

Files are uploaded with purpose batch; a batch is validated, runs for ``seconds`` and ends with an output file
and an error file. Answers are those of :mod:`tests.support.fault_server`: functions of the request's body.
What befalls a line is drawn from its custom_id, how often that was run, and the seed.

The log (and ``events``) has one entry for each of: ``uploaded``, ``created`` (with the custom_ids and hashes
of the requests), ``ended`` (with the tokens of each answer), ``refused``, ``cancelled``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.fault_server import FaultServer, InThread


@dataclass
class Faults:
    """Rates are per line; numbers are of batches or requests of a kind, from 1.

    Attributes:
        seconds: that a batch runs; per_call: on top, for each of its lines.
        failing: status to rate: lines that end with that status in the error file.
        unsupported: request fields that lines get a 400 for.
        expiring: rate of lines that are not run before the window ends (the batch is then ``expired``).
        missing: rate of lines that are in neither file; broken: of lines that are no JSON; empty: of answers
            without choices.
        reset_after: creations that are answered by a reset; reset_before: that are reset and not done.
        hidden: seconds that a new batch is in no list.
        refuse: batch number to the errors of its validation.
        most: calls in all batches that run at once; beyond it validation fails with token_limit_exceeded.
        flaky: rate of looks and downloads that fail (500, reset, cut in the middle).
        delay: seconds, from and to, before each answer to anything.
        run_cancelled: the share of a batch's lines that was run before it was cancelled.
        api_key: others get a 401.
    """

    seconds: float = 0.02
    per_call: float = 0.0
    failing: dict[str, float] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    expiring: float = 0.0
    missing: float = 0.0
    broken: float = 0.0
    empty: float = 0.0
    reset_after: list[int] = field(default_factory=list)
    reset_before: list[int] = field(default_factory=list)
    hidden: float = 0.0
    refuse: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    most: int = 10**9
    flaky: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)
    run_cancelled: float = 0.0
    api_key: str = ""
    seed: int = 0


@dataclass
class _Batch:
    number: int
    data: dict[str, Any]
    lines: list[dict[str, Any]]
    visible_at: float
    task: asyncio.Task[None] | None = None


class BatchServer(InThread):
    """The server; ``events`` is its log in memory."""

    def __init__(self, log: str | Path | None = None, port: int = 0, **faults: Any) -> None:
        super().__init__(port)
        self.faults = Faults(**faults)
        self.events: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, _Batch] = {}
        self._answers = FaultServer(seed=self.faults.seed)
        self._runs: Counter[str] = Counter()
        self._requests = random.Random(self.faults.seed)
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._creations = 0

    def of(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in list(self.events) if entry["event"] == event]

    # --- life ------------------------------------------------------------------------------------

    async def serve(self, on_ready: Callable[[], None], *, signals: bool = False) -> None:
        app = web.Application(client_max_size=1 << 30, middlewares=[self._guard])
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._retrieve)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        await self._until_stopped(on_ready, signals)
        for batch in self.batches.values():
            if batch.task is not None:
                batch.task.cancel()
        await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        key = self.faults.api_key
        if key and request.headers.get("authorization") != f"Bearer {key}":
            return _error(401, "Incorrect API key provided", "invalid_api_key")
        low, high = self.faults.delay
        if high:
            await asyncio.sleep(self._requests.uniform(low, high))
        return await handler(request)  # type: ignore[no-any-return]

    # --- the API ---------------------------------------------------------------------------------

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        file = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
            return _error(400, "purpose must be batch")
        id = f"file-{len(self.files)}"
        self.files[id] = file.file.read()
        self._note("uploaded", file=id, bytes=len(self.files[id]))
        return web.json_response(
            {"id": id, "object": "file", "purpose": "batch", "bytes": 0, "created_at": 0}
        )

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._creations += 1
        if self._creations in self.faults.reset_before:
            return await _reset(request)
        content = self.files.get(body.get("input_file_id", ""))
        if content is None or body.get("endpoint") != "/v1/chat/completions":
            return _error(400, "no such input file, or endpoint")
        if body.get("completion_window") != "24h":
            return _error(400, "completion_window must be 24h")
        number = len(self.batches) + 1
        id = f"batch_{number}"
        lines = [json.loads(line) for line in content.splitlines()]
        data = {
            "id": id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "metadata": body.get("metadata"),
            "created_at": int(time.time()),
            "status": "validating",
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        batch = self.batches[id] = _Batch(number, data, lines, time.monotonic() + self.faults.hidden)
        self._note(
            "created",
            batch=id,
            wave=(body.get("metadata") or {}).get("heartloop_wave"),
            ids=[line["custom_id"] for line in lines],
            requests=[_hash(line["body"]) for line in lines],
        )
        batch.task = asyncio.create_task(self._run(batch))
        if self._creations in self.faults.reset_after:
            return await _reset(request)
        return web.json_response(data)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        limit, after = int(request.query.get("limit", "20")), request.query.get("after")
        newest = [b for b in reversed(self.batches.values()) if time.monotonic() >= b.visible_at]
        if after is not None:
            ids = [batch.data["id"] for batch in newest]
            newest = newest[ids.index(after) + 1 :]
        page = newest[:limit]
        return web.json_response(
            {"object": "list", "data": [b.data for b in page], "has_more": len(newest) > limit}
        )

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        if self._requests.random() < self.faults.flaky:
            return await (_reset(request) if self._requests.random() < 0.5 else _broken())
        batch = self.batches.get(request.match_info["id"])
        return _error(404, "No batch found") if batch is None else web.json_response(batch.data)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _error(404, "No batch found")
        if batch.data["status"] not in ("validating", "in_progress"):
            return _error(409, "Cannot cancel a batch that has ended")
        assert batch.task is not None
        batch.task.cancel()
        run = int(len(batch.lines) * self.faults.run_cancelled)
        self._finish(batch, batch.lines[:run], "cancelled", never="batch_cancelled")
        self._note("cancelled", batch=batch.data["id"])
        return web.json_response(batch.data)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.match_info["id"])
        if content is None:
            return _error(404, "No such file")
        if self._requests.random() < self.faults.flaky:
            response = web.StreamResponse(headers={"content-length": str(len(content))})
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
            return await _reset(request)
        return web.Response(body=content, content_type="application/octet-stream")

    # --- running ---------------------------------------------------------------------------------

    async def _run(self, batch: _Batch) -> None:
        running = sum(
            len(other.lines)
            for other in self.batches.values()
            if other is not batch and other.data["status"] in ("validating", "in_progress")
        )
        await asyncio.sleep(min(0.01, self.faults.seconds))
        errors = self.faults.refuse.get(str(batch.number))
        if running + len(batch.lines) > self.faults.most:
            said = "Enqueued token limit reached for test-model. Limit: 9 enqueued tokens."
            errors = [{"code": "token_limit_exceeded", "message": said, "line": None, "param": None}]
        if errors:
            batch.data.update(status="failed", errors={"object": "list", "data": errors})
            self._note("refused", batch=batch.data["id"])
            return
        batch.data["status"] = "in_progress"
        await asyncio.sleep(self.faults.seconds + self.faults.per_call * len(batch.lines))
        run = [line for line in batch.lines if self._draw(line).random() >= self.faults.expiring]
        status = "completed" if len(run) == len(batch.lines) else "expired"
        self._finish(batch, run, status, never="batch_expired")

    def _draw(self, line: dict[str, Any]) -> random.Random:
        id = line["custom_id"]
        return random.Random(f"{self.faults.seed}/{id}/{self._runs[id]}")

    def _finish(self, batch: _Batch, run: list[dict[str, Any]], status: str, *, never: str) -> None:
        out: list[bytes] = []
        errors: list[bytes] = []
        tokens: dict[str, int] = {}
        ran = {id(line) for line in run}
        for line in batch.lines:
            custom = line["custom_id"]
            if id(line) not in ran:
                self._runs[custom] += 1
                error = {"code": never, "message": "This request could not be executed in time."}
                errors.append(_line(custom, None, error))
                continue
            self._one(line, out, errors, tokens)
        self._runs.update(line["custom_id"] for line in run)
        for name, lines in (("output_file_id", out), ("error_file_id", errors)):
            if lines:
                file = f"file-{len(self.files)}"
                self.files[file] = b"\n".join(lines) + b"\n"
                batch.data[name] = file
        batch.data["request_counts"].update(completed=len(out), failed=len(errors))
        batch.data["status"] = status
        self._note("ended", batch=batch.data["id"], status=status, tokens=tokens)

    def _one(
        self, line: dict[str, Any], out: list[bytes], errors: list[bytes], tokens: dict[str, int]
    ) -> None:
        custom, body = line["custom_id"], line["body"]
        draw = self._draw(line)
        draw.random()  # whether it expired
        refused = next((name for name in self.faults.unsupported if name in body), None)
        if refused is not None:
            error = {
                "message": f"Unsupported parameter: '{refused}' is not supported with this model.",
                "code": "unsupported_parameter",
                "param": refused,
            }
            errors.append(_line(custom, {"status_code": 400, "body": {"error": error}}, None))
            return
        for status, rate in self.faults.failing.items():
            if draw.random() < rate:
                said = {"error": {"message": f"failed with {status}", "code": None}}
                errors.append(_line(custom, {"status_code": int(status), "body": said}, None))
                return
        answer = self._answers._answer("ok", body, _hash(body))
        if draw.random() < self.faults.empty:
            answer["choices"] = []
        tokens[custom] = answer["usage"]["total_tokens"]
        if draw.random() < self.faults.missing:
            return
        text = _line(custom, {"status_code": 200, "request_id": "req", "body": answer}, None)
        out.append(text[: len(text) // 2] if draw.random() < self.faults.broken else text)

    def _note(self, event: str, **data: Any) -> None:
        entry = {"event": event, "t": time.time(), **data}
        self.events.append(entry)
        if self._log is not None:
            os.write(self._log, json.dumps(entry).encode() + b"\n")


def _line(custom: str, response: Any, error: Any) -> bytes:
    return json.dumps({"id": "batch_req", "custom_id": custom, "response": response, "error": error}).encode()


def _error(status: int, message: str, code: str | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": code}}, status=status)


async def _broken() -> web.StreamResponse:
    return _error(500, "The server had an error")


async def _reset(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    await asyncio.sleep(0)
    return web.Response(status=500)


def _hash(data: Any) -> str:
    return blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log")
    parser.add_argument("--faults", type=json.loads, default={})
    given = parser.parse_args()
    server = BatchServer(given.log, given.port, **given.faults)
    asyncio.run(server.serve(lambda: print(f"READY {server.port}", flush=True), signals=True))


if __name__ == "__main__":
    main()
