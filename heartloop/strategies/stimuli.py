"""Sets of stimuli as data: sentences that go before or after a question (``stimuli.toml``)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

from heartloop.errors import UnknownName

__all__ = ["Stimuli", "stimuli"]


@dataclass(frozen=True, slots=True)
class Stimuli:
    """One set: where its sentences go, and the sentences by id, in the file's order."""

    name: str
    place: Literal["before", "after"]
    texts: Mapping[str, str]

    def text(self, stimulus: str) -> str:
        """A sentence.

        Raises:
            UnknownName: with the set's ids.
        """
        if stimulus not in self.texts:
            raise UnknownName(f"stimulus of {self.name!r}", stimulus, self.texts)
        return self.texts[stimulus]


def stimuli(name: str) -> Stimuli:
    """The set called ``name``.

    Raises:
        UnknownName: with the known ones.
    """
    sets = _sets()
    if name not in sets:
        raise UnknownName("set of stimuli", name, sets)
    return sets[name]


@cache
def _sets() -> Mapping[str, Stimuli]:
    source = resources.files("heartloop.strategies").joinpath("stimuli.toml")
    data = tomllib.loads(source.read_text(encoding="utf-8"))
    return MappingProxyType(
        {
            name: Stimuli(name, table["place"], {i: t for i, t in table.items() if i != "place"})
            for name, table in data.items()
        }
    )
