"""The deck's phrases dealt like cards: none comes twice until its cell is spent."""

from __future__ import annotations

import random

from heartloop.emotions.deck import Cell, Deck, Entry
from heartloop.types import Cue

__all__ = ["Piles"]


class Piles:
    """One shuffled pile a cell; what one pile deals does not depend on the traffic at another."""

    def __init__(self, deck: Deck, seed: int) -> None:
        self.deck = deck
        self._seed = seed
        self._piles: dict[Cell, _Pile] = {}

    def deal(self, cells: list[Cell]) -> tuple[Cue, ...]:
        """A cue for each cell.

        Raises:
            DataError: the deck lacks one of them; then no card was drawn.
        """
        # All are looked up before a card is drawn: a lacking one must leave the piles as they were.
        return tuple(pile.draw().cue for pile in [self._pile(cell) for cell in cells])

    def _pile(self, cell: Cell) -> _Pile:
        if cell not in self._piles:
            label = "/".join(part.value for part in cell)
            self._piles[cell] = _Pile(self.deck.cell(*cell), random.Random(f"{self._seed}/cell/{label}"))
        return self._piles[cell]


class _Pile:
    """One cell's entries, dealt without repetition until all were dealt, then shuffled anew."""

    def __init__(self, entries: tuple[Entry, ...], rng: random.Random) -> None:
        self._entries, self._rng = entries, rng
        self._left: list[Entry] = []
        self._last: Entry | None = None

    def draw(self) -> Entry:
        if not self._left:
            self._left = self._rng.sample(self._entries, k=len(self._entries))
            if self._left[-1] is self._last:
                self._left.reverse()
        self._last = self._left.pop()
        return self._last
