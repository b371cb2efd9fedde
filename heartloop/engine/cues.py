"""Cues for a strategy: a rotation's sequence, with each draw that needs it in the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from heartloop.emotions.choosing import ChoosingSequence, Situation
from heartloop.emotions.outcomes import Outcomes
from heartloop.emotions.rotations import CueSequence
from heartloop.types import Attempt, Cue, Problem

if TYPE_CHECKING:
    from heartloop.engine.session import Session

__all__ = ["Cues"]


class Cues:
    """One problem's cues, round by round; see :meth:`heartloop.engine.session.Session.cues`."""

    def __init__(
        self,
        session: Session,
        sequence: CueSequence | ChoosingSequence,
        problem: Problem,
        outcomes: Outcomes,
    ) -> None:
        self._session, self._sequence = session, sequence
        self._problem, self._outcomes = problem, outcomes
        self._rounds = 0

    async def next_round(self, lines: Sequence[Sequence[Attempt]]) -> tuple[Cue, ...]:
        """A cue for each of ``lines``, whose speech act follows from the line's last verdict.

        Raises:
            DataError: the deck lacks a cell that the rotation needs.
            UsageError: the rotation can't work here (a memory that would leak, ...).
        """
        session, sequence, number = self._session, self._sequence, self._rounds
        self._rounds += 1
        acts = [session.speech_act(line[-1]) for line in lines]
        if not isinstance(sequence, ChoosingSequence):
            return sequence.next_round(len(lines), acts)
        situation = Situation(self._problem, lines, number, session.oracle, self._outcomes)
        chosen: list[dict[str, Any]] = await session.decide(
            f"cues:{number}", lambda: sequence.choose(situation, session.random(f"cues/{number}"))
        )
        return sequence.deal(chosen, acts)
