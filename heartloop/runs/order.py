"""In which order a run works on its problems.

``"data"``: the data's order, the arms of one problem side by side, whatever their seeds.

``"seed"``: each seed has an order of its own, the same for all its arms. Where problems influence each other
(a rotation that learns, a budget that ends some of them) what is found with one order is found of that order;
so runs that are to be repeats of each other must differ in it. Problems are sorted by the BLAKE2b hash
(8 bytes) of ``"order\\0SEED\\0ID"``: it depends on nothing but seed and id, so two problems keep their order
whatever other problems there are, and a run that is resumed or extended goes on in the same one. In a run of
several seeds the first problems of all seeds come first, then the second ones, and so on.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Protocol

from heartloop.engine.solving import Arm
from heartloop.errors import UnknownName
from heartloop.types import Problem

__all__ = ["ORDERS", "check_order", "in_order", "permuted"]

ORDERS = ("data", "seed")


class Problems(Protocol):
    """A run's problems; its journal holds them."""

    def problem_places(self) -> Iterable[tuple[int, str]]: ...

    def iter_problems(
        self, after_position: int = 0, limit: int | None = None
    ) -> Iterator[tuple[int, Problem]]: ...


def check_order(order: str) -> None:
    """Raises UnknownName for what is no order."""
    if order not in ORDERS:
        raise UnknownName("order", order, ORDERS)


def permuted(places: Iterable[tuple[int, str]], seed: int) -> array[int]:
    """The positions of problems, given with their ids, in the order of ``seed``."""
    keyed = [(_key(seed, id), position) for position, id in places]
    keyed.sort()
    return array("q", (position for _, position in keyed))


def _key(seed: int, id: str) -> bytes:
    return blake2b(f"order\0{seed}\0{id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def in_order(
    problems: Problems, arms: Sequence[Arm], order: str, seed: int
) -> Iterator[tuple[Problem, Sequence[Arm]]]:
    """Problems with the arms that are to work on them side by side, read as they are needed.

    Args:
        seed: of the run, which arms have that name none.
    """
    if order == "data":
        for _, problem in problems.iter_problems():
            yield problem, arms
        return
    by_seed: dict[int, list[Arm]] = {}
    for arm in arms:
        by_seed.setdefault(seed if arm.seed is None else arm.seed, []).append(arm)
    places = list(problems.problem_places())
    orders = {each: permuted(places, each) for each in by_seed}
    count = len(places)
    del places
    for number in range(count):
        for each, worked_on_by in by_seed.items():
            position = orders[each][number]
            for _, problem in problems.iter_problems(position - 1, limit=1):
                yield problem, worked_on_by
