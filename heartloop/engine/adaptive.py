"""Adaptive: the next call goes where the expected gain per token is highest.

**With verdicts** (an oracle, or any judge that says right or wrong) the gain is the chance of solving the
problem. The chance after k failures is estimated over all problems of the arm
(:mod:`heartloop.engine.hazards`): solved problems are gone, and problems that keep failing sink, as in
"Strategic Scaling of Test-Time Compute" (arXiv 2506.12721). Failures alone put problems into the order
that breadth-first has anyway; what goes beyond it is what a call for this problem costs, and two marks of
problems whose bearing is learned and starts at none: whether wrong answers repeat, whether calls are dear.
Chances may rise from round to round, so a call is worth the best ratio of gain to tokens over the next few
calls (Gittins' index), not that of the next one alone.

**Without verdicts** the gain is in the answer that the votes choose. As in Adaptive-Consistency (arXiv
2305.11860) the leading answer's share against the runner-up's follows Beta(leader + 1, runner-up + 1); the
gain of m more votes is how much they raise the expected chance that the leader is the more frequent
answer. Split votes gain, unanimous ones hardly do.

**Exploration**: every problem gets its first attempt before any goes deep, since data are often sorted and
the first problems say little of the last; rounds that have not been seen are estimated by the population's
law; and age raises priority: a factor of two in gain per token is worth :data:`DOUBLING` later arrivals, and
no call is more than ``HIGHEST - LOWEST`` of them behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

from heartloop.engine.hazards import BetaGeometric, fit, smoothed
from heartloop.engine.scheduler import Answered, Ended, Judged, Made, Observation, Waiting

__all__ = ["DOUBLING", "HIGHEST", "LOWEST", "Adaptive", "vote_gain"]

DOUBLING = 4_096.0
"""How many later arrivals a factor of two in gain per token is worth."""

LOWEST, HIGHEST = -8.0, 3.0
"""Lowest and highest level (factors of two in gain per token, against an average fresh problem)."""

FRESH, BEST = 2.0, 1.5
"""Level of a problem's first attempt, and the highest of a later one."""

FRESH_VOTE_GAIN = 0.5
"""Gain of a problem's first answer where there are no verdicts: more than any vote can bring later."""

_LOOKAHEAD = 8
_LAW_WEIGHT = 10.0
_LIFT_WEIGHT = 6.0
_CLASSES = 9
_UNKNOWN = 1
_FIRST_REFIT = 16
_REFIT_GROWTH = 1.15


@dataclass(slots=True)
class _History:
    """One problem of one arm: what it was seen to do."""

    rounds: dict[tuple[str, int], str | None] = field(default_factory=dict)
    judged: set[tuple[str, int]] = field(default_factory=set)
    tokens: int = 0
    failures: int = 0
    repeats: int = 0
    wrong: set[str | None] = field(default_factory=set)
    votes: dict[str, int] = field(default_factory=dict)
    solved: bool = False


@dataclass(slots=True)
class _Arm:
    """All problems of one arm together."""

    law: BetaGeometric = BetaGeometric(0.5, 2.0)
    verdicts: bool = False
    observed: int = 0
    refit_at: int = _FIRST_REFIT
    solved: list[list[int]] = field(default_factory=list)
    tried: list[list[int]] = field(default_factory=list)
    cost_sum: list[float] = field(default_factory=list)
    cost_count: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=lambda: [1.0])
    values: list[list[float]] = field(default_factory=list)

    def count(self, failures: int, which: int, right: bool) -> None:
        """A verdict after so many failures, on a problem of the class ``which``."""
        while len(self.tried) <= failures:
            self.tried.append([0] * _CLASSES)
            self.solved.append([0] * _CLASSES)
        self.tried[failures][which] += 1
        self.solved[failures][which] += right
        self.observed += 1

    def paid(self, round: int, tokens: int) -> None:
        while len(self.cost_sum) < round:
            self.cost_sum.append(0.0)
            self.cost_count.append(0)
        self.cost_sum[round - 1] += tokens
        self.cost_count[round - 1] += 1

    def refit(self) -> None:
        """Estimate costs and chances anew, and the value of a call in each state."""
        self.refit_at = max(self.observed + _FIRST_REFIT, int(self.observed * _REFIT_GROWTH))
        overall = sum(self.cost_sum) / max(1, sum(self.cost_count)) or 1.0
        self.costs = []
        for total, count in zip(self.cost_sum, self.cost_count, strict=True):
            before = self.costs[-1] if self.costs else overall
            self.costs.append((total + 4 * before) / (count + 4))
        if not self.costs:
            self.costs = [overall]
        solved = [sum(row) for row in self.solved]
        tried = [sum(row) for row in self.tried]
        self.law = fit(solved, tried, self.law)
        hazards = smoothed(solved, tried, self.law, weight=_LAW_WEIGHT, upto=len(tried) + _LOOKAHEAD)
        self.values = [
            [
                best_ratio([min(0.999, h * lift) for h in hazards[k : k + _LOOKAHEAD]], self.costs_from(k))
                for lift in self._lifts(hazards)
            ]
            for k in range(len(tried) + 1)
        ]

    def costs_from(self, failures: int) -> list[float]:
        last = len(self.costs) - 1
        return [self.costs[min(failures + i, last)] for i in range(_LOOKAHEAD)]

    def cost(self, round: int) -> float:
        return self.costs[min(round, len(self.costs)) - 1]

    def _lifts(self, hazards: list[float]) -> list[float]:
        """How much likelier than its number of failures says a problem of each class is solved.

        A product of one factor for repeats and one for costs; the latter is what is left of it.
        """
        lifts = [1.0] * _CLASSES
        for group, first in ((_repeats_of, 1), (_costs_of, 0)):
            rows = range(first, len(self.tried))
            seen, expected = [_LIFT_WEIGHT] * 3, [_LIFT_WEIGHT] * 3
            for which in range(_CLASSES):
                seen[group(which)] += sum(self.solved[k][which] for k in rows)
                expected[group(which)] += lifts[which] * sum(hazards[k] * self.tried[k][which] for k in rows)
            lifts = [lift * seen[group(w)] / expected[group(w)] for w, lift in enumerate(lifts)]
        return lifts

    def value(self, failures: int, which: int) -> float:
        """Chance of a success per token of a problem of the class ``which``, at average costs."""
        if not self.values:
            return self.law.hazard(failures) / self.costs[0]
        known = min(failures, len(self.values) - 1)
        value = self.values[known][which]
        if failures > known:
            value *= self.law.hazard(failures) / self.law.hazard(known)
        return value


class Adaptive:
    """The policy. See the module's text for what it estimates and whom it follows."""

    name = "adaptive"

    def __init__(self) -> None:
        self.revision = 0
        self._arms: dict[str, _Arm] = {}
        self._histories: dict[tuple[str, str], _History] = {}

    # --- what is seen -------------------------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        if isinstance(observation, Answered):
            return
        place = (observation.arm, observation.problem)
        if isinstance(observation, Ended):
            self._histories.pop(place, None)
            return
        arm = self._arms.get(observation.arm)
        if arm is None:
            arm = self._arms[observation.arm] = _Arm()
        history = self._histories.get(place)
        if history is None:
            history = self._histories[place] = _History()
        attempt = (observation.branch, observation.round)
        if isinstance(observation, Made):
            if attempt not in history.rounds:
                self._made(arm, history, attempt, observation)
        elif observation.correct is not None and attempt not in history.judged:
            history.judged.add(attempt)
            self._judged(arm, history, observation)
        if arm.observed >= arm.refit_at:
            arm.refit()
            self.revision += 1

    @staticmethod
    def _made(arm: _Arm, history: _History, attempt: tuple[str, int], made: Made) -> None:
        history.rounds[attempt] = made.answer
        history.tokens += made.tokens
        arm.paid(made.round, made.tokens)
        if made.answer is not None:
            history.votes[made.answer] = history.votes.get(made.answer, 0) + 1
        if not arm.verdicts:
            arm.observed += 1

    def _judged(self, arm: _Arm, history: _History, judged: Judged) -> None:
        if not arm.verdicts:
            # The first verdict: from now on gains are chances of being right, not of changing votes.
            arm.verdicts = True
            arm.observed, arm.refit_at = 0, _FIRST_REFIT
            self.revision += 1
        right = bool(judged.correct)
        arm.count(history.failures, _class(history.repeats, _cost_factor(arm, history)), right)
        if right:
            history.solved = True
            return
        history.failures += 1
        history.repeats += judged.answer in history.wrong
        history.wrong.add(judged.answer)

    # --- what follows from it -----------------------------------------------------------------------

    def priority(self, waiting: Waiting) -> float:
        return waiting.arrival - DOUBLING * self.level(waiting)

    def level(self, waiting: Waiting) -> float:
        """What goes first: gain per token in factors of two, limited on both sides."""
        if waiting.role != "generator":
            return HIGHEST  # it completes what has been paid for
        history = self._histories.get((waiting.arm, waiting.problem))
        if history is None or not history.rounds:
            return FRESH
        if history.solved:
            return LOWEST
        reference = max(self._fresh(arm) for arm in self._arms.values())
        gain = self.gain_per_token(waiting)
        if gain <= 0:
            return LOWEST
        return min(BEST, max(LOWEST, math.log2(gain / reference)))

    def gain_per_token(self, waiting: Waiting) -> float:
        """What one more token for this call's problem is expected to bring; 0 for a solved problem."""
        arm = self._arms.get(waiting.arm)
        if arm is None:
            arm = _Arm()
        history = self._histories.get((waiting.arm, waiting.problem))
        if history is None:
            return self._fresh(arm)
        if history.solved:
            return 0.0
        factor = _cost_factor(arm, history)
        if arm.verdicts:
            return arm.value(history.failures, _class(history.repeats, factor)) / factor
        return vote_gain(*_lead(history.votes)) / (factor * arm.cost(waiting.round))

    @staticmethod
    def _fresh(arm: _Arm) -> float:
        return arm.value(0, _UNKNOWN) if arm.verdicts else FRESH_VOTE_GAIN / arm.cost(1)


def best_ratio(chances: list[float], costs: list[float]) -> float:
    """Gittins' index of a job that may end at each step: the highest ratio of the chance that it ends
    within m steps to what these steps are expected to cost, over all m."""
    best = expected_cost = 0.0
    alive = 1.0
    for chance, cost in zip(chances, costs, strict=True):
        expected_cost += alive * cost
        alive *= 1 - chance
        best = max(best, (1 - alive) / expected_cost)
    return best


def _class(repeats: int, cost_factor: float) -> int:
    """Problems are told apart by wrong answers that repeat (0, 1, more) and by costs (low, middle, high)."""
    return 3 * min(repeats, 2) + (cost_factor > 0.75) + (cost_factor > 1.33)


def _repeats_of(which: int) -> int:
    return which // 3


def _costs_of(which: int) -> int:
    return which % 3


def _cost_factor(arm: _Arm, history: _History) -> float:
    """How much dearer than the average this problem's calls are; one attempt's worth of doubt."""
    if not history.rounds or not arm.values:
        return 1.0  # before the first estimate of all costs there is nothing to compare with
    expected = sum(arm.cost(round) for _, round in history.rounds)
    return (history.tokens + arm.costs[0]) / (expected + arm.costs[0])


def _lead(votes: dict[str, int]) -> tuple[int, int]:
    first = second = 0
    for count in votes.values():
        if count > first:
            first, second = count, first
        elif count > second:
            second = count
    return first, second


@lru_cache(maxsize=4096)
def vote_gain(leader: int, runner_up: int) -> float:
    """Gain of a further vote: the best, over m, of the rise in the expected chance that the leading answer
    is the more frequent one after m more votes, divided by m."""
    if leader == 0:
        return FRESH_VOTE_GAIN
    a, b = leader + 1, runner_up + 1
    now = _ahead(a, b)
    best = 0.0
    for m in range(1, 2 * (leader - runner_up) + 4):
        after = 0.0
        for won in range(m + 1):
            chance = math.comb(m, won) * _beta_ratio(a, b, won, m - won)
            ahead = _ahead(a + won, b + m - won)
            after += chance * max(ahead, 1 - ahead)
        best = max(best, (after - now) / m)
    return best


@lru_cache(maxsize=65536)
def _ahead(a: int, b: int) -> float:
    """P(q > 1/2) for q ~ Beta(a, b) with whole a and b: a binomial tail."""
    n = a + b - 1
    return float(sum(math.comb(n, k) for k in range(a)) / 2**n)


def _beta_ratio(a: int, b: int, won: int, lost: int) -> float:
    """B(a + won, b + lost) / B(a, b)."""
    return math.exp(
        math.lgamma(a + won)
        + math.lgamma(b + lost)
        - math.lgamma(a + b + won + lost)
        - math.lgamma(a)
        - math.lgamma(b)
        + math.lgamma(a + b)
    )
