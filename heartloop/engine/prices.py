"""What tokens cost: prices of models by name, from a table with dates and sources, or from the user.

A price that nobody knows is None, never 0. The table holds list prices of one provider each, so it is
only asked for models at that provider's own address (see :meth:`heartloop.Model.known_price`).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from heartloop.errors import DataError, UsageError

__all__ = ["Price", "default_prices", "load_prices"]

BATCH_SHARE = 0.5
"""What OpenAI's Batch API takes, as a share of the ordinary price (platform.openai.com/docs/guides/batch)."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens.

    Attributes:
        prompt, completion: ordinary ones.
        cached_prompt: prompt tokens that the provider had cached; None: as ``prompt``.
        reasoning: reasoning tokens, which are part of the completion's; None: as ``completion``.
        batch: what a batch costs, as a share of all these; None: not known (:meth:`for_batch` takes half).
    """

    prompt: float
    completion: float
    cached_prompt: float | None = None
    reasoning: float | None = None
    batch: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"a price is 0 or more dollars per million tokens, not {value!r}")

    def of(
        self,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int = 0,
        reasoning_tokens: int = 0,
        *,
        batch: bool = False,
    ) -> float:
        """Dollars for these tokens.

        Args:
            cached_tokens: how many of ``prompt_tokens`` were cached.
            reasoning_tokens: how many of ``completion_tokens`` were reasoning.
            batch: they went through a batch API.
        """
        cached_rate = self.prompt if self.cached_prompt is None else self.cached_prompt
        dollars = (prompt_tokens - cached_tokens) * self.prompt + cached_tokens * cached_rate
        if self.reasoning is None:
            dollars += completion_tokens * self.completion
        else:
            dollars += (completion_tokens - reasoning_tokens) * self.completion
            dollars += reasoning_tokens * self.reasoning
        if batch and self.batch is not None:
            dollars *= self.batch
        return dollars / 1e6

    def for_batch(self) -> Price:
        """The price of the same tokens by the batch: :attr:`batch` of each; half where that is not known."""
        share = BATCH_SHARE if self.batch is None else self.batch
        return Price(
            self.prompt * share,
            self.completion * share,
            None if self.cached_prompt is None else self.cached_prompt * share,
            None if self.reasoning is None else self.reasoning * share,
        )

    def worst(self, prompt_tokens: int, completion_tokens: int, *, batch: bool = False) -> float:
        """Dollars that so many tokens can cost at most."""
        dearest = Price(
            max(self.prompt, self.cached_prompt or 0.0),
            max(self.completion, self.reasoning or 0.0),
            batch=self.batch,
        )
        return dearest.of(prompt_tokens, completion_tokens, batch=batch)


def load_prices(path: str | Path) -> dict[str, Price]:
    """A user's own table: a TOML file in the form of ``heartloop/engine/prices.toml``.

    Raises:
        DataError: it can't be read, or an entry can't be one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't read the prices: {error}") from error
    return _parsed(text, str(path))


@cache
def default_prices() -> Mapping[str, Price]:
    """HeartLoop's table, by the name a model has at its provider."""
    text = resources.files("heartloop.engine").joinpath("prices.toml").read_text(encoding="utf-8")
    return _parsed(text, "prices.toml")


def _parsed(text: str, where: str) -> dict[str, Price]:
    try:
        entries = tomllib.loads(text).get("price", [])
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{where}: not TOML: {error}") from error
    if not isinstance(entries, list):
        raise DataError(f"{where}: prices are [[price]] tables")
    table: dict[str, Price] = {}
    for number, entry in enumerate(entries, 1):
        names, price = _entry(entry, f"{where}: price {number}")
        for name in names:
            if name in table:
                raise DataError(f"{where}: price {number}: {name!r} has a price already")
            table[name] = price
    return table


def _entry(entry: Any, where: str) -> tuple[list[str], Price]:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: not a table")
    names = entry.get("models")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: models must be a list of names")
    known = {field.name for field in fields(Price)}
    if unknown := sorted(entry.keys() - known - {"models", "as_of", "source"}):
        raise DataError(f"{where}: unknown field {unknown[0]!r}")
    values = {name: entry[name] for name in known & entry.keys()}
    if not {"prompt", "completion"} <= values.keys():
        raise DataError(f"{where}: prompt and completion are needed")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
        raise DataError(f"{where}: prices are numbers, in dollars per million tokens")
    try:
        return names, Price(**values)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from error
