"""Which model to ask, and how: what the caller says of a backend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from heartloop.backends.base import Backend
from heartloop.backends.waves import TakesWaves
from heartloop.engine.dispatch import Lane
from heartloop.engine.hedge import HedgePolicy
from heartloop.engine.ledger import Ledger
from heartloop.engine.prices import Price, default_prices, load_prices
from heartloop.engine.scheduler import Scheduler
from heartloop.errors import UsageError
from heartloop.types import Budget, Sampling

__all__ = ["Model"]

DEFAULT_CONCURRENCY = 256
"""The most calls at once where neither the user nor the backend says: as many as one vLLM runs by default."""

WAVE_CONCURRENCY = 10_000
"""What stands for the concurrency of a backend that takes waves: how many problems are in work goes by it."""

FAMILIES = ("azure", "batch", "dspy", "local", "vllm", "vllm-batch", "vllm-offline")
"""What goes before the slash of a model's name and says how it is asked, wherever it is served."""

BATCHES = ("batch", "vllm-batch", "vllm-offline")
"""Families of backends that take calls by the batch, whether ``batch`` is set or not."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model with its own limits.

    Attributes:
        name: ``"local/smollm2-135m"``, ``"openai/NAME"``, ``"batch/NAME"``, ``"scripted/echo"``, or a name
            that ``base_url`` serves.
        backend: an object to use in place of what ``name`` and ``base_url`` say.
        base_url: of an OpenAI-compatible server.
        api_key_env: environment variable that holds the key.
        sampling: temperature, max_tokens, ...
        concurrency: calls at once, at most; None takes the backend's own limit, or 256.
        adaptive: find out how many of these the server can take (see :mod:`heartloop.engine.limiter`);
            False always uses all. A backend that knows its own number is always given that.
        requests_per_minute, tokens_per_minute: None is no limit but what the server says.
        attempt_timeout: seconds one try may take.
        hedge: send stragglers a second time (see :mod:`heartloop.engine.hedge`): True, or a policy.
        price: dollars per million tokens; None looks into ``prices``, then into HeartLoop's own table.
        prices: a TOML file with prices of your own, in the form of ``heartloop/engine/prices.toml``. Names in
            it may be written in full (``"azure/fast"``) or without the family (``"fast"``).
        budget: this model's own limits, beside the run's.
        context_tokens: the model's context length where the backend does not know it.
        batch: ask by the batch, at the batch price: OpenAI's Batch API for ``"NAME"`` and ``"openai/NAME"``
            (the same as ``"batch/NAME"``). Such calls wait for as long as they take; none of ``concurrency``,
            the rates, ``attempt_timeout`` and ``hedge`` concerns them.
        wave_size: the most calls in one batch; None: as many as the backend takes.
        wave_seconds: how long a call waits at most for others to join its batch. Usually a batch leaves when
            no problem in work can go on without it.
        options: further keyword arguments of the backend.
    """

    name: str = ""
    backend: Backend | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    sampling: Sampling = Sampling()
    concurrency: int | None = None
    adaptive: bool = True
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempt_timeout: float = 600.0
    hedge: bool | HedgePolicy = False
    price: Price | None = None
    prices: str | Path | None = None
    budget: Budget = Budget()
    context_tokens: int | None = None
    batch: bool = False
    wave_size: int | None = None
    wave_seconds: float = 300.0
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def spec(self) -> str:
        """The backend's name in full: with ``batch``, that of the one that takes batches.

        Raises:
            UsageError: there is none for this model.
        """
        if not self.batch:
            return self.name
        family, slash, name = self.name.partition("/")
        if slash and family in BATCHES:
            return self.name
        if slash and self.base_url is None:
            if family == "openai":
                return f"batch/{name}"
            if family in ("vllm", "local", "scripted", "azure", "dspy"):
                raise UsageError(
                    f"{self.name!r} takes no batches. vLLM does offline: vllm-batch/MODEL runs "
                    "`vllm run-batch`, vllm-offline/MODEL loads it into this process"
                )
        if slash and family == "vllm":
            raise UsageError("a vLLM server has no batch API; vllm-batch/MODEL runs `vllm run-batch`")
        return f"batch/{self.name}"

    def make_backend(self) -> Backend:
        """The backend: the given one, or a new one by name.

        Raises:
            UnknownName, UsageError: no such model, no key.
        """
        backend = self.backend if self.backend is not None else self._named()
        if isinstance(backend, TakesWaves):
            self._check_waves()
        return backend

    def _named(self) -> Backend:
        if not self.name:
            raise UsageError("no model given: pass a name, such as 'local/smollm2-135m', or a backend")
        from heartloop.backends import make_backend

        options = dict(self.options)
        if self.context_tokens is not None:
            options.setdefault("context_tokens", self.context_tokens)
        return make_backend(self.spec, base_url=self.base_url, api_key_env=self.api_key_env, **options)

    def known_price(self) -> Price | None:
        """What its tokens cost: as given, from ``prices``, or the list price; None where nobody knows.

        By the batch it is the batch price of that: what its ``batch`` says, else half.

        List prices only count at their provider's own address.

        Raises:
            DataError: ``prices`` can't be read.
        """
        price = self._list_price()
        # Half of it is what OpenAI says of its Batch API; nobody says so of a vLLM of one's own.
        by_batch = getattr(self.backend, "batch_priced", self.spec.startswith("batch/"))
        return price.for_batch() if price is not None and by_batch else price

    def _list_price(self) -> Price | None:
        if self.price is not None:
            return self.price
        if self.prices is not None:
            table = load_prices(self.prices)
            if (own := next((table[known] for known in self._names() if known in table), None)) is not None:
                return own
        family, slash, name = self.name.partition("/")
        if self.backend is not None or self.base_url is not None:
            return None
        if slash:
            if family == "batch" and os.environ.get("OPENAI_BASE_URL"):
                return None
            return default_prices().get(name) if family in ("openai", "batch") else None
        return None if os.environ.get("OPENAI_BASE_URL") else default_prices().get(self.name)

    def _names(self) -> tuple[str, ...]:
        """What a table may call it: the name in full, and the name that its family sends."""
        family, slash, name = self.name.partition("/")
        # At a server of one's own "openai/NAME" is a name like any other, and is sent whole.
        known = family in FAMILIES or (family == "openai" and self.base_url is None)
        return (self.name, name) if slash and known else (self.name,)

    def lane(self, name: str, *, ledger: Ledger, scheduler: Scheduler, money: bool) -> Lane:
        """A lane to this model.

        Raises:
            UsageError: there is a budget of money (``money``, or this model's own) and no price.
        """
        price = self.known_price()
        if price is None and (money or self.budget.usd is not None):
            raise UsageError(
                "a budget in dollars needs the price of every model, and that of "
                f"{self.name or getattr(self.backend, 'name', name)!r} is unknown: "
                "give its price per million prompt and completion tokens, or limit tokens instead"
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, not {self.concurrency}")
        backend = self.make_backend()
        waves = isinstance(backend, TakesWaves)
        concurrency = self.concurrency or backend.max_concurrency or DEFAULT_CONCURRENCY
        if waves:
            concurrency = WAVE_CONCURRENCY
        if backend.max_concurrency is not None:
            concurrency = min(concurrency, backend.max_concurrency)
        return Lane(
            backend,
            ledger=ledger,
            scheduler=scheduler,
            concurrency=concurrency,
            sampling=self.sampling,
            attempt_timeout=self.attempt_timeout,
            account=ledger.account(f"model {name!r}", self.budget, scope=f"model/{name}"),
            price=price,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            adaptive=self.adaptive
            and backend.max_concurrency is None
            and not isinstance(backend, TakesWaves),
            hedge=HedgePolicy() if self.hedge is True else self.hedge or None,
            name=name,
            wave_size=self.wave_size,
            wave_seconds=self.wave_seconds,
        )

    def _check_waves(self) -> None:
        given = {
            "concurrency": self.concurrency,
            "requests_per_minute": self.requests_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
            "hedge": self.hedge or None,
        }
        if wrong := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"{' and '.join(wrong)}: not for calls by the batch, which go all at once (see wave_size)"
            )
        if self.wave_size is not None and self.wave_size < 1:
            raise UsageError(f"wave_size must be at least 1, not {self.wave_size}")
        if not self.wave_seconds > 0:
            raise UsageError(f"wave_seconds must be a positive number of seconds, not {self.wave_seconds}")
