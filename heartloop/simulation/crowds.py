"""Candidates with known truth: what a model's attempts at problems look like to a judge.

A problem has a chance of a right attempt and a *temptation*: how often a wrong attempt gives the problem's
favourite wrong answer. That is how errors correlate: attempts of one model fail alike. Where temptation makes
the wrong answer the mode, no vote finds the right one. In a chain (rounds of one line) answers also stick,
and right ones are given up: drift. Confidence is drawn around a mean that lies ``informs`` standard
deviations higher for right attempts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heartloop.types import Attempt, Problem, TraceConfidence, Usage, Verdict

__all__ = ["CROWDS", "RIGHT", "TEMPTING", "Crowd", "Drawn", "majority_accuracy"]

RIGHT, TEMPTING = "right", "tempting"


@dataclass(frozen=True, slots=True)
class Drawn:
    """One problem: its attempts, each scored, and the law they come from."""

    problem: Problem
    attempts: tuple[Attempt, ...]
    chance: float
    temptation: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """A population of problems with their attempts.

    Attributes:
        right, wrong: a problem's chance of a right attempt is drawn from Beta(right, wrong).
        tempted, resisted: its temptation from Beta(tempted, resisted); ``resisted`` 0 is a temptation of 1.
        others: further wrong answers, all alike.
        rounds: 1 for independent attempts, each a branch; more for lines of so many rounds.
        lost: in a line: chance in each round that a right answer is given up for a wrong one (drift).
        found: in a line: factor on the chance of leaving a wrong answer for the right one.
        informs: standard deviations between the mean confidence of right and of wrong attempts.
        biased: standard deviations by which the *tempting* answer's confidence is raised: the model believes
            in it.
    """

    name: str
    right: float = 2.0
    wrong: float = 2.0
    tempted: float = 2.0
    resisted: float = 4.0
    others: int = 6
    rounds: int = 1
    lost: float = 0.0
    found: float = 0.3
    informs: float = 0.0
    biased: float = 0.0

    def draw(self, problems: int, width: int, seed: int = 0) -> list[Drawn]:
        """So many problems with ``width`` branches each; the same for the same arguments."""
        rng = random.Random(f"{self.name}/{seed}")
        return [self._problem(str(number), width, rng) for number in range(problems)]

    def _problem(self, id: str, width: int, rng: random.Random) -> Drawn:
        chance = rng.betavariate(self.right, self.wrong)
        temptation = 1.0 if self.resisted == 0 else rng.betavariate(self.tempted, self.resisted)
        attempts = []
        for branch in range(width):
            answer = self._answer(chance, temptation, rng)
            for round in range(1, self.rounds + 1):
                if round > 1:
                    answer = self._next(answer, chance, temptation, rng)
                attempts.append(self._attempt(id, branch, round, answer, rng))
        attempts.sort(key=lambda a: (a.round, int(a.branch)))
        return Drawn(Problem(id, f"Problem {id}?", reference=RIGHT), tuple(attempts), chance, temptation)

    def _answer(self, chance: float, temptation: float, rng: random.Random) -> str:
        return RIGHT if rng.random() < chance else self._mistake(temptation, rng)

    def _mistake(self, temptation: float, rng: random.Random) -> str:
        return TEMPTING if rng.random() < temptation else f"wrong {rng.randrange(self.others)}"

    def _next(self, answer: str, chance: float, temptation: float, rng: random.Random) -> str:
        if answer == RIGHT:
            return self._mistake(temptation, rng) if rng.random() < self.lost else RIGHT
        return RIGHT if rng.random() < self.found * chance else answer

    def _attempt(self, id: str, branch: int, round: int, answer: str, rng: random.Random) -> Attempt:
        sure = self.informs * (answer == RIGHT) + self.biased * (answer == TEMPTING) + rng.gauss(0, 1)
        tokens = max(20, int(300 * math.exp(rng.gauss(0, 0.3))))
        return Attempt(
            problem_id=id,
            branch=str(branch),
            round=round,
            text=f"Attempt {branch}.{round} of problem {id}: {answer}",
            answer=answer,
            usage=Usage(60, tokens),
            confidence=_confidence(sure, tokens),
            score=Verdict(answer == RIGHT, "simulated"),
        )


def _confidence(sure: float, tokens: int) -> TraceConfidence:
    """A confidence of ``sure`` standard deviations above a usual one (values as SmolLM2's lie)."""
    level = max(0.5, 8.0 + 1.5 * sure)
    return TraceConfidence(
        tokens=tokens,
        alternatives=20,
        logprob=-0.5 * math.exp(-0.3 * sure),
        mean=level,
        lowest=0.8 * level,
        bottom=0.85 * level,
        tail=1.05 * level,
        entropy=0.8 * math.exp(-0.4 * sure),
        window=max(1, min(tokens, max(16, tokens // 8))),
    )


def majority_accuracy(chance: float, temptation: float, others: int, attempts: int) -> float:
    """Chance that the majority of so many independent attempts is right; ties go to the answer found first.

    Exact: a sum over the counts of right and tempting answers and over those of the others.
    """
    rest = (1 - chance) * (1 - temptation)
    total = 0.0
    for r in range(attempts + 1):
        for t in range(attempts - r + 1):
            left = attempts - r - t
            weight = math.comb(attempts, r) * math.comb(attempts - r, t)
            weight_p = weight * chance**r * ((1 - chance) * temptation) ** t * rest**left
            if weight_p and r:
                total += weight_p * _wins(r, t, left, others)
    return total


def _wins(r: int, t: int, left: int, others: int) -> float:
    """Chance that the right answer, with ``r`` of the votes, is the majority's choice.

    Among leaders with equal votes each is found first with equal chance (attempts are exchangeable).
    """
    if t > r:
        return 0.0
    tied = 1 + (t == r)
    total = 0.0
    for level, share in _other_leaders(left, others, r).items():
        total += share / (tied + level)
    return total


def _other_leaders(left: int, others: int, r: int) -> Mapping[int, float]:
    """How many of the other answers have exactly ``r`` votes, none having more: chance of each number."""
    # states: votes still to hand out and leaders so far; answers are gone through one by one.
    state: dict[tuple[int, int], float] = {(left, 0): 1.0}
    for k in range(others, 0, -1):
        after: dict[tuple[int, int], float] = {}
        for (votes, leaders), p in state.items():
            for c in range(min(votes, r) + 1) if k > 1 else ([votes] if votes <= r else []):
                share = math.comb(votes, c) * (1 / k) ** c * (1 - 1 / k) ** (votes - c) if k > 1 else 1.0
                key = (votes - c, leaders + (c == r))
                after[key] = after.get(key, 0.0) + p * share
        state = after
    found: dict[int, float] = {}
    for (_, leaders), p in state.items():
        found[leaders] = found.get(leaders, 0.0) + p
    return found


_ALL: Sequence[Crowd] = (
    Crowd("independent errors", tempted=1, resisted=9),
    Crowd("correlated errors", tempted=2, resisted=4, informs=0.8),
    Crowd("strongly correlated errors", tempted=4, resisted=2, informs=0.8),
    Crowd("confident mistakes", tempted=4, resisted=2, informs=0.8, biased=0.8),
    Crowd("uninformative confidence", tempted=2, resisted=4),
    Crowd("informative confidence", tempted=2, resisted=4, informs=2.0),
    Crowd("easy", right=6, wrong=2, tempted=2, resisted=4, informs=0.8),
    Crowd("chains that drift", right=3, wrong=2, rounds=6, lost=0.25, found=0.2, informs=0.8),
    Crowd("chains that mend", right=2, wrong=2, rounds=6, lost=0.02, found=0.6, informs=0.8),
)

CROWDS: Mapping[str, Crowd] = {crowd.name: crowd for crowd in _ALL}
"""Crowds to try judges on. "correlated errors" is the plausible one: half the attempts right on average, some
problems nearly always and some nearly never; a third of the errors alike; confidence that says a little."""
