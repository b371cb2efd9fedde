"""Which model to ask, and how: what the caller says of a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from heartloop.backends.base import Backend
from heartloop.engine.dispatch import Lane, Price
from heartloop.engine.ledger import Ledger
from heartloop.engine.scheduler import Scheduler
from heartloop.errors import UsageError
from heartloop.types import Budget, Sampling

__all__ = ["Model"]

DEFAULT_CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Model:
    """One model with its own limits.

    Attributes:
        name: ``"local/smollm2-135m"``, ``"openai/NAME"``, ``"scripted/echo"``, or a name that
            ``base_url`` serves.
        backend: an object to use in place of what ``name`` and ``base_url`` say.
        base_url: of an OpenAI-compatible server.
        api_key_env: environment variable that holds the key.
        sampling: temperature, max_tokens, ...
        concurrency: calls at once; None takes the backend's own limit, or 64.
        requests_per_minute: None is no limit.
        attempt_timeout: seconds one try may take.
        price: dollars per million tokens; None is unknown.
        budget: this model's own limits, beside the run's.
        context_tokens: the model's context length where the backend does not know it.
        options: further keyword arguments of the backend.
    """

    name: str = ""
    backend: Backend | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    sampling: Sampling = Sampling()
    concurrency: int | None = None
    requests_per_minute: float | None = None
    attempt_timeout: float = 600.0
    price: Price | None = None
    budget: Budget = Budget()
    context_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def make_backend(self) -> Backend:
        """The backend: the given one, or a new one by name.

        Raises:
            UnknownName, UsageError: no such model, no key.
        """
        if self.backend is not None:
            return self.backend
        if not self.name:
            raise UsageError("no model given: pass a name, such as 'local/smollm2-135m', or a backend")
        from heartloop.backends import make_backend

        options = dict(self.options)
        if self.context_tokens is not None:
            options.setdefault("context_tokens", self.context_tokens)
        return make_backend(self.name, base_url=self.base_url, api_key_env=self.api_key_env, **options)

    def lane(self, name: str, *, ledger: Ledger, scheduler: Scheduler, money: bool) -> Lane:
        """A lane to this model.

        Raises:
            UsageError: there is a budget of money (``money``, or this model's own) and no price.
        """
        if self.price is None and (money or self.budget.usd is not None):
            raise UsageError(
                f"a budget in dollars needs the price of every model, and that of {name!r} is unknown: "
                "give its price per million prompt and completion tokens, or limit tokens instead"
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, not {self.concurrency}")
        backend = self.make_backend()
        concurrency = self.concurrency or backend.max_concurrency or DEFAULT_CONCURRENCY
        if backend.max_concurrency is not None:
            concurrency = min(concurrency, backend.max_concurrency)
        return Lane(
            backend,
            ledger=ledger,
            scheduler=scheduler,
            concurrency=concurrency,
            sampling=self.sampling,
            attempt_timeout=self.attempt_timeout,
            account=ledger.account(f"model {name!r}", self.budget),
            price=self.price,
            requests_per_minute=self.requests_per_minute,
        )
