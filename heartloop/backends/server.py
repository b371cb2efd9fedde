"""One model at one server that speaks OpenAI's format: what is the same whichever client it is reached by."""

from __future__ import annotations

import asyncio
from typing import Any

from heartloop.backends.address import Address
from heartloop.backends.base import bytes_bound, own_loop
from heartloop.backends.secrets import Redactor
from heartloop.errors import BackendError, CallTimeout, ModelNotFound, UsageError
from heartloop.types import Message

__all__ = ["CONNECT_SECONDS", "IDLE_SECONDS", "NO_KEY", "ServerBackend"]

CONNECT_SECONDS = 30.0
IDLE_SECONDS = 3.0
"""How long an unused connection is kept: below uvicorn's 5 s (vLLM), or requests would meet its closing."""

NO_KEY = "none"
"""What is sent for a key where there is none; it is no secret."""


class ServerBackend:
    """Used from one event loop, that of the first call.

    A subclass has ``complete``, ``_open`` (its client, made at the first call) and ``_model_names``.
    """

    real: bool = True
    structured_output: bool = True

    def __init__(
        self,
        name: str,
        address: Address,
        key: str,
        *,
        timeout: float | None,
        context_tokens: int | None,
        max_concurrency: int | None,
    ) -> None:
        """
        Args:
            key: what no error may repeat; "" if there is none.
            timeout: seconds for the whole call, from connecting to the last byte; None: as long as the
                caller waits (the gateway has a limit for each attempt).

        Raises:
            UsageError: no name, or a timeout that is none.
        """
        if not name:
            raise UsageError("the model's name is empty")
        if timeout is not None and not timeout > 0:
            raise UsageError(f"timeout must be a positive number of seconds, not {timeout!r}")
        self.name = name
        self.max_concurrency = max_concurrency
        self.context_tokens = context_tokens
        self._timeout = timeout
        self._key = key
        self._set_address(address)
        self._known_models: list[str] | None = None
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def _set_address(self, address: Address) -> None:
        self.address = address
        own = (self._key,) if len(self._key) > 3 and self._key != NO_KEY else ()
        self._redact = Redactor([*address.secrets, *own])
        self._where = f"{address.shown} (model {self.name!r})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={self.address.shown!r})"

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return bytes_bound(messages)

    # --- the client's life -------------------------------------------------------------------------------

    async def _open(self) -> Any:
        """The client, whose ``close`` is a coroutine."""
        raise NotImplementedError

    async def _connected(self) -> Any:
        self._loop = own_loop(self, self._loop, self._closed)
        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    self._client = await self._open()
        return self._client

    @property
    def _connect_seconds(self) -> float:
        return min(CONNECT_SECONDS, self._timeout or CONNECT_SECONDS)

    async def aclose(self) -> None:
        self._closed = True
        client, self._client = self._client, None
        # From another loop its connections can't be closed in order; they go with the object.
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    # --- what goes wrong ---------------------------------------------------------------------------------

    def _too_slow(self) -> CallTimeout:
        return CallTimeout(f"{self._where} did not answer within {self._timeout:g} s")

    async def _model_names(self) -> list[str]:
        """What the server says it has, sorted; [] for whatever goes wrong."""
        raise NotImplementedError

    async def _with_known_models(self, error: BackendError) -> BackendError:
        """The error for a model that is not there, with those that are."""
        if self._known_models is None:
            self._known_models = await self._model_names()
        return ModelNotFound(f"{error}{self._known(self._known_models)}", status=error.status)

    def _known(self, models: list[str]) -> str:
        if not models:
            return " (the server lists no models; does base_url end in /v1?)"
        shown = ", ".join(models[:20]) + (", ..." if len(models) > 20 else "")
        return f" (the server knows: {self._redact(shown)})"
