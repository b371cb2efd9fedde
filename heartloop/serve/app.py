"""The server: routes, admission, disconnects, draining."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from heartloop.engine.engine import Engine
from heartloop.engine.watch import Watch
from heartloop.errors import HeartLoopError, UsageError
from heartloop.http_logs import quiet_logger
from heartloop.serve.keys import Client, Keys
from heartloop.serve.loops import LOOPS, Limits, LoopSettings, loop_for, served_names
from heartloop.serve.metrics import Metrics
from heartloop.serve.solver import Solver
from heartloop.serve.streaming import Made, Stream
from heartloop.serve.wire import (
    ApiError,
    ChatRequest,
    api_error,
    chat_request,
    completion,
    dumps,
    new_id,
    too_large,
    unpacked,
)
from heartloop.strategies.prompts import Prompts
from heartloop.types import Attempt, Solution
from heartloop.view.guard import Guard, is_loopback

__all__ = ["Server", "ServerSettings"]

logger = logging.getLogger(__name__)

_OPEN_PATHS = ("/health",)
_UNWATCHED_PATHS = ("/health", "/metrics")
_EARLY_SECONDS = 2.0
_GONE = 499
"""As a status in the metrics: the client has left."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to serve.

    Attributes:
        model: the name that clients ask for.
        loop: what they get unless they say otherwise. limits: the most they may ask for.
        requests: the most requests answered at once; further ones are told to come again (429).
        body_bytes: the largest body.
        keepalive: seconds between signs of life to a client that streams.
        drain: seconds that requests under way get when the server is told to end.
        patience: seconds that a client gets to send its body, or to take what it is sent.
    """

    model: str
    loop: LoopSettings = field(default_factory=LoopSettings)
    limits: Limits = field(default_factory=Limits)
    host: str = "127.0.0.1"
    port: int = 8000
    requests: int = 256
    body_bytes: int = 8 << 20
    keepalive: float = 10.0
    drain: float = 60.0
    patience: float = 60.0


class Server:
    """An OpenAI-compatible server in front of ``engine``.

    Raises:
        UsageError: an address that others reach, and no keys; a loop of the server's own that it would
            refuse to a client; prometheus-client is missing.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings,
        keys: Keys | None = None,
        *,
        prompts: Prompts | None = None,
    ) -> None:
        self.keys = keys or Keys()
        if not self.keys and not is_loopback(settings.host):
            raise UsageError(
                f"{settings.host} is reached by others: give keys (--keys FILE or --client-key-env NAME), "
                "or serve on 127.0.0.1"
            )
        # Without keys, a page on the web could have a visitor's browser ask this machine.
        self._guard_names = None if self.keys else Guard(settings.host)
        self.engine, self.settings = engine, settings
        try:
            own = settings.loop
            needs = own.made()[1].needs_reference
            loop_for(
                settings.model,
                settings.model,
                {"reference": "any"} if needs else {},
                own,
                settings.limits,
            )
        except ApiError as error:
            raise UsageError(f"the server's own loop can't be served: {error}") from error
        for client in self.keys.clients:
            if not client.budget.unlimited:
                client.account = engine.ledger.account(f"key {client.name!r}", client.budget)
        self.solver = Solver(engine, settings.limits, prompts=prompts)
        self.metrics = Metrics()
        self.draining = False
        self.started = int(time.time())
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds = 1.0  # a request takes, as of late
        self._runner: web.AppRunner | None = None
        middlewares = [self._guard]
        if engine.watch is not None:
            middlewares.insert(0, _watched_by(engine.watch))
        self.app = web.Application(client_max_size=settings.body_bytes, middlewares=middlewares)
        self.app.router.add_post("/v1/chat/completions", self._chat)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get("/v1/models/{name:.+}", self._one_model)
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get("/metrics", self._metrics)

    # --- life ---------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Listen; returns the base URL.

        Raises:
            UsageError: the address is taken.
        """
        settings = self.settings
        self._runner = web.AppRunner(
            self.app,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,  # it would unpack gigabytes that nobody reads; see _body
            logger=quiet_logger("heartloop.serve.http"),
            shutdown_timeout=0.5,
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, settings.host, settings.port, backlog=1024).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(
                f"can't serve on {settings.host}:{settings.port}: {error.strerror or error}"
            ) from error
        host, port = self._runner.addresses[0][:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    async def stop(self) -> None:
        """Take nothing more, give what is under way ``drain`` seconds, then end it and close the engine."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain):
                await self._idle.wait()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.engine.aclose()

    async def serve(self, ready: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT; a second one ends requests under way at once."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def tell() -> None:
            if told.is_set():
                self._idle.set()  # as if nothing were under way
            told.set()

        url = await self.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tell)
        ready(url)
        await told.wait()
        await self.stop()

    # --- admission ----------------------------------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Keys before anything else; errors in OpenAI's form."""
        try:
            self._check_asker(request)
            if request.path not in _OPEN_PATHS:
                self._client(request)
            return await handler(request)
        except ApiError as error:
            return _failed(error)
        except web.RequestPayloadError:
            return _failed(ApiError(400, "the body can't be read: its encoding or framing is broken"))
        except web.HTTPRequestEntityTooLarge:
            return _failed(too_large(self.settings.body_bytes))
        except web.HTTPException as error:
            answer = _failed(ApiError(error.status, error.reason or "no such thing here"))
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer
        except ConnectionError:
            raise
        except Exception as error:
            logger.error("a request failed", exc_info=error)
            return _failed(api_error(error))

    def _check_asker(self, request: web.Request) -> None:
        """Without keys: whether the request can have been meant for this server, and is no other page's.

        A browser tells the page's origin, and the name that it was asked for (which may have been made to
        resolve to this machine: DNS rebinding).
        """
        if (guard := self._guard_names) is None:
            return
        hosts = request.headers.getall("Host", [])
        if len(hosts) > 1 or not all(map(guard.knows, hosts)):
            raise ApiError(403, "this server does not go by that name; one with keys takes any name")
        origin = request.headers.get("Origin")
        if origin is not None and not guard.knows(origin.partition("://")[2]):
            raise ApiError(403, "not for pages of other origins; a server with keys takes them")

    def _client(self, request: web.Request) -> Client:
        return self.keys.client(request.headers.get("Authorization"))

    @contextlib.asynccontextmanager
    async def _admitted(self, client: Client) -> AsyncIterator[None]:
        if self.draining:
            self.metrics.refused.labels("draining").inc()
            raise ApiError(503, "the server is ending", kind="server_error", retry_after=5.0)
        if self._open >= self.settings.requests:
            self.metrics.refused.labels("busy").inc()
            raise ApiError(
                429,
                f"{self._open} requests are being answered already",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after=min(60.0, max(1.0, self._seconds / 2)),
            )
        try:
            client.enter(self.keys.clock())
        except ApiError:
            self.metrics.refused.labels("key").inc()
            raise
        self._open += 1
        self._idle.clear()
        self.metrics.open.set(self._open)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._seconds += 0.1 * (time.monotonic() - begun - self._seconds)
            client.leave()
            self._open -= 1
            self.metrics.open.set(self._open)
            if not self._open:
                self._idle.set()

    # --- routes -------------------------------------------------------------------------------------

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        client = self._client(request)
        label, status, begun = "none", 500, time.monotonic()
        try:
            async with self._admitted(client):
                asked = chat_request(await self._body(request))
                settings = self.settings
                loop = loop_for(asked.model, settings.model, asked.heartloop, settings.loop, settings.limits)
                named = asked.model.partition(":")[0]
                label = named if named in LOOPS and asked.model != settings.model else "default"
                if asked.stream:
                    answer, status = await self._streamed(request, asked, loop, client, label)
                else:
                    answer = await self._whole(asked, loop, client, label)
                    status = answer.status
                return answer
        except ApiError as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            status = _GONE
            raise
        finally:
            self.metrics.requests.labels(label, str(status)).inc()
            self.metrics.seconds.labels(label).observe(time.monotonic() - begun)

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self.settings.patience):
                body = await request.read()
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time") from None
        return unpacked(body, request.headers.get("Content-Encoding"), self.settings.body_bytes)

    async def _solved(
        self,
        asked: ChatRequest,
        loop: LoopSettings,
        client: Client,
        label: str,
        tell: Callable[[int, Attempt], None] | None = None,
    ) -> list[Solution]:
        try:
            solutions = await self.solver.solve(asked, loop, client, tell)
        except* Exception as group:
            error = _first(group)
            if not isinstance(error, HeartLoopError | ApiError):
                logger.error("a request failed", exc_info=error)
            raise api_error(error) from error
        for solution in solutions:
            self.metrics.solved(label, solution)
        for solution in solutions:
            _check_attempted(solution)
        return solutions

    async def _whole(
        self, asked: ChatRequest, loop: LoopSettings, client: Client, label: str
    ) -> web.Response:
        solutions = await self._solved(asked, loop, client, label)
        return _json(completion(new_id(), asked.model, solutions))

    async def _streamed(
        self, request: web.Request, asked: ChatRequest, loop: LoopSettings, client: Client, label: str
    ) -> tuple[web.StreamResponse, int]:
        """The stream, and the status that it would have had as a whole."""
        made: Made = asyncio.Queue()
        tell = (lambda index, attempt: made.put_nowait((index, attempt))) if loop.show_rounds else None
        work = asyncio.create_task(self._solved(asked, loop, client, label, tell))
        work.add_done_callback(_told)
        stream = Stream(request, asked, patience=self.settings.patience, keepalive=self.settings.keepalive)
        try:
            # What fails early is an error with a status; later it can only be an event.
            await asyncio.wait([work], timeout=min(_EARLY_SECONDS, self.settings.keepalive))
            if work.done():
                work.result()
            await stream.begin()
            await stream.think(work, made)
            try:
                solutions = work.result()
            except ApiError as error:
                await stream.fail(error)
                return stream.response, error.status
            await stream.answer(solutions)
        except (ConnectionError, RuntimeError) as error:
            if not isinstance(error, ConnectionError) and not _is_gone(request):
                raise
            logger.info("a client left its stream")
            return stream.response, _GONE
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait([work])
        return stream.response, 200

    async def _models(self, request: web.Request) -> web.Response:
        names = served_names(self.settings.model)
        return _json({"object": "list", "data": [self._model(name) for name in names]})

    async def _one_model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in served_names(self.settings.model):
            raise ApiError(404, f"the model {name!r} is not served here", code="model_not_found")
        return _json(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "heartloop"}

    async def _health(self, request: web.Request) -> web.Response:
        state = "draining" if self.draining else "ok"
        return _json({"status": state, "open": self._open}, status=503 if self.draining else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        page, kind = self.metrics.page(self.engine)
        return web.Response(body=page, headers={"Content-Type": kind})


def _check_attempted(solution: Solution) -> None:
    """Raise ApiError for a choice whose budget ended before its first attempt."""
    if solution.chosen is None:
        raise ApiError(
            429,
            f"no attempt was made: {solution.error or solution.stop_reason.value}",
            kind="insufficient_quota",
            code="budget_exhausted",
        )


def _watched_by(watch: Watch) -> Any:
    """The middleware that tells ``watch`` of requests: of none that only ask after the server's health."""

    @web.middleware
    async def watched(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = "" if resource is None else resource.canonical
        if route in _UNWATCHED_PATHS:
            return await handler(request)
        with watch.request(request.method, request.path, route, request.headers) as tell:
            response = await handler(request)
            tell(response.status)
            return response

    return watched


def _failed(error: ApiError) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _json(error.body(), status=error.status, headers=headers)


def _json(data: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=dumps(data), status=status, content_type="application/json", headers=headers or {}
    )


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    found: Any = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, Exception) else RuntimeError(str(found))


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _told(work: asyncio.Task[list[Solution]]) -> None:
    """What became of ``work`` has been told, or nobody is there to be told."""
    if not work.cancelled():
        work.exception()
