"""The grid of a benchmark run: arms x judges x seeds as the arms of one run, with equal caps for each cell.

Cells share first attempts (same question, same seed), so their comparisons are paired. Each has an account
of its own, an equal share of the run's limits: none can starve another. Attempts of a problem are capped
alike for all arms: what an arm could make at most is found by going through it with a stand-in for the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from heartloop.emotions import Irrelevant, Neutral, Phrase, rotation_from_spec
from heartloop.errors import UnknownName, UsageError
from heartloop.graders import grader_from_name
from heartloop.judges import judge_from_name
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.dry_run import most_attempts
from heartloop.runs.presets import preset_arms
from heartloop.runs.show import counted
from heartloop.strategies import options_of
from heartloop.strategies.prompts import Prompts
from heartloop.types import Budget
from heartloop_benchmarks.base import Benchmark
from heartloop_benchmarks.contrasts import JudgeChoice, contrast_of, primary_of
from heartloop_benchmarks.runtables import ArmTable, JudgeTable, RunFile

__all__ = ["DEFAULT_ARMS", "Grid", "JudgeChoice", "grid_of"]

DEFAULT_ROUNDS = 6
DEFAULT_ARMS = ("chain_of_thought", "resample", "twin", "heart")
"""HEART, its affect-free twin, the baseline it has to beat, and what all of them begin with (the first
attempt, which costs nothing more where it is shared)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Everything that the cells are made of.

    Attributes:
        labels: of the arms, in order; attempts: the most that each could make of a problem.
        most_attempts: what they are capped at. arm_budget: each cell's share of the run's limits.
        primary: the contrast that is declared before the run, as ``{"a", "b", "judge", "spec", "setting"}``;
            None where none is declared and there are no HEART and twin.
        families: ``{"name", "method", "contrasts"}`` of further declared ones.
        notes: what a reader must know, in sentences.
    """

    arms: tuple[ArmConfig, ...]
    labels: tuple[str, ...]
    attempts: Mapping[str, int]
    most_attempts: int
    judges: tuple[JudgeChoice, ...]
    seeds: tuple[int, ...]
    budget: Budget
    arm_budget: Budget
    problem_budget: Budget
    primary: dict[str, Any] | None
    families: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def config(self, file: RunFile, models: dict[str, ModelConfig], prompts: Prompts) -> RunConfig:
        """The run, without what the benchmark keeps with it."""
        return RunConfig(
            models=models,
            arms=self.arms,
            seed=self.seeds[0],
            budget=self.budget,
            arm_budget=self.arm_budget,
            problem_budget=self.problem_budget,
            prompts=prompts.as_dict(),
            scheduler=file.scheduler,
            retries=file.retries,
            share_first=file.share_first,
            active=file.active,
            order=file.order or "seed",
        )


def grid_of(
    file: RunFile, benchmark: Benchmark, options: Any, models: dict[str, ModelConfig], prompts: Prompts
) -> Grid:
    """The grid that ``file`` asks for.

    Raises:
        UsageError: names that nothing has, arms that could make more attempts than the cap, contrasts between
            what is not there, limits too small to be shared.
    """
    judges = _judges(file, benchmark, options)
    fit = partial(_fitted, file=file, models=models, prompts=prompts)
    cap, labelled, own_judges = _labelled(file, fit)
    names = {judge.name for judge in judges}
    for label, wanted in own_judges.items():
        for name in wanted:
            if name not in names:
                raise UnknownName(f"judge of arm {label!r}", name, names)
    attempts = {
        arm.name: most_attempts(replace(arm, judge="majority", score_after=False), prompts, models)
        for arm in labelled
    }
    for label, most in attempts.items():
        if most > cap:
            raise UsageError(
                f"arm {label!r} could make {most} attempts of a problem, and the cap for every arm is {cap}: "
                "give it fewer rounds or a smaller width, or raise attempts in [caps]"
            )
    grader = file.grader or benchmark.grader(options)
    arms = tuple(
        replace(
            arm,
            name=f"{arm.name}/{judge.name}/s{seed}",
            label=arm.name,
            judge=judge.spec,
            score_after=judge.score_after,
            seed=seed,
            grader=grader,
        )
        for seed in file.seeds
        for judge in judges
        for arm in labelled
        if arm.name not in own_judges or judge.name in own_judges[arm.name]
    )
    asks = grader_from_name(grader).role is not None
    budget, arm_budget = _shares(file, len(arms), asks=asks)
    primary, notes = primary_of(file, labelled, judges, arms)
    families = tuple(
        {
            "name": family.name,
            "method": "holm",
            "contrasts": [contrast_of(one, judges, arms) for one in family.contrasts],
        }
        for family in file.families
    )
    return Grid(
        arms=arms,
        labels=tuple(attempts),
        attempts=attempts,
        most_attempts=cap,
        judges=judges,
        seeds=tuple(file.seeds),
        budget=budget,
        arm_budget=arm_budget,
        problem_budget=file.caps.budget(),
        primary=primary,
        families=families,
        notes=tuple(notes),
    )


# --- judges ------------------------------------------------------------------------------------------


def _judges(file: RunFile, benchmark: Benchmark, options: Any) -> tuple[JudgeChoice, ...]:
    found = [_judge(table, file, benchmark, options) for table in file.judges]
    _different("judges", [judge.name for judge in found])
    _different("seeds", list(map(str, file.seeds)))
    return tuple(found)


def _judge(table: JudgeTable, file: RunFile, benchmark: Benchmark, options: Any) -> JudgeChoice:
    spec = benchmark.oracle(options) if table.judge.strip() == "oracle" else table.judge
    judge = judge_from_name(spec)
    if table.score_after and not judge.needs_reference:
        raise UsageError(f"judge {table.name!r}: score_after goes with an oracle; others look at all rounds")
    after = judge.needs_reference and (table.score_after or file.score_after)
    setting = "S2" if not judge.needs_reference else "oracle" if after else "S1"
    return JudgeChoice(table.name, spec, after, setting)


def _different(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{what}: {twice[0]!r} is there twice; cells need names of their own")


# --- arms --------------------------------------------------------------------------------------------


def _base(file: RunFile) -> ArmConfig:
    return ArmConfig(
        name="heart",
        max_rounds=file.caps.rounds or DEFAULT_ROUNDS,
        width=file.width,
        rotation=file.rotation,
        deck=file.deck,
        stop=file.stop,
        stable_rounds=file.stable_rounds,
    )


def _labelled(file: RunFile, fit: Any) -> tuple[int, tuple[ArmConfig, ...], dict[str, list[str]]]:
    """The cap of attempts; the arms, named by their labels; and the judges of those that name some."""
    base = _base(file)
    cap = file.caps.attempts
    if cap is not None and file.caps.rounds is None:
        base = replace(base, max_rounds=max(1, 1 + (cap - 1) // base.width))
    cap = cap or 1 + (base.max_rounds - 1) * base.width
    arms: list[ArmConfig] = []
    own_judges: dict[str, list[str]] = {}
    if file.preset is not None:
        arms += preset_arms(file.preset, base)
    tables = file.arms
    if tables is None:
        tables = [] if file.preset is not None else _default_arms()
    for table in tables:
        arms.append(fit(_arm(table, base), table, cap))
        if table.judges is not None:
            own_judges[table.name] = table.judges
    if not arms:
        raise UsageError("no arms: name some (--arm heart --arm twin), or a preset")
    _different("arms", [arm.name for arm in arms])
    return cap, tuple(arms), own_judges


def _default_arms() -> list[ArmTable]:
    wanted = {"arms": list(DEFAULT_ARMS), "benchmark": "-", "model": {"name": "-"}}
    return RunFile.model_validate(wanted).arms or []


def _arm(table: ArmTable, base: ArmConfig) -> ArmConfig:
    rotation = table.rotation or base.rotation
    if table.twin:
        if table.strategy.partition(":")[0] not in ("heart", "parallel_heart"):
            raise UsageError(f"arm {table.name!r}: {table.strategy!r} sends no cues, so it has no twin")
        if isinstance(rotation_from_spec(rotation), Neutral | Irrelevant | Phrase):
            raise UsageError(
                f"arm {table.name!r}: twin sends the affect-free twins of a rotation's cues, and those of "
                f"{rotation!r} have no affect; give it the rotation that HEART has, or leave twin out"
            )
        rotation = f"neutral:{rotation}"
    takes = options_of(table.strategy)
    for option in ("rotation", "width", "rounds", "stop", "stable_rounds", "deck"):
        named = "max_rounds" if option == "rounds" else option
        if takes is not None and named not in takes and getattr(table, option) is not None:
            raise UsageError(f"arm {table.name!r}: {option} means nothing to the strategy {table.strategy!r}")
    return replace(
        base,
        name=table.name,
        strategy=table.strategy,
        rotation=rotation,
        width=table.width or base.width,
        max_rounds=table.rounds or base.max_rounds,
        stop=table.stop or base.stop,
        stable_rounds=table.stable_rounds or base.stable_rounds,
        deck=table.deck or base.deck,
    )


def _fitted(
    arm: ArmConfig,
    table: ArmTable,
    cap: int,
    *,
    file: RunFile,
    models: dict[str, ModelConfig],
    prompts: Prompts,
) -> ArmConfig:
    """``arm`` with as many rounds as the cap of attempts leaves it, where it names none itself."""
    takes = options_of(arm.strategy)
    if table.rounds is not None or (takes is not None and "max_rounds" not in takes):
        return arm
    widths = [arm.width] if table.width is not None or arm.width == 1 else [arm.width, 1]
    best: tuple[int, ArmConfig] | None = None
    for width in widths:
        low, high = 1, cap
        while low < high:  # the most rounds that stay within the cap: attempts grow with rounds
            middle = (low + high + 1) // 2
            tried = replace(arm, width=width, max_rounds=middle)
            if most_attempts(tried, prompts, models) <= cap:
                low = middle
            else:
                high = middle - 1
        # No more rounds than the others have, where those are given: a cap of attempts alone sets both.
        if file.caps.rounds is not None and width == arm.width == 1:
            low = min(low, file.caps.rounds)
        tried = replace(arm, width=width, max_rounds=low)
        made = most_attempts(tried, prompts, models)
        if made <= cap and (best is None or made > best[0]):
            best = made, tried
    return arm if best is None else best[1]


# --- limits ----------------------------------------------------------------------------


def _shares(file: RunFile, cells: int, *, asks: bool) -> tuple[Budget, Budget]:
    """The run's limits, and each cell's equal share of them.

    A grader that asks a model (``asks``) is paid from the run's limits and no cell's, so a part is set aside.
    """
    limits = file.limits
    set_aside = (0.5 if asks else 0.0) if limits.grading is None else limits.grading
    part = (1 - set_aside) / cells

    def share(name: str, given: int | None) -> int | None:
        if given is None:
            return None
        whole = int(given * part + 1e-9)
        if whole < 1:
            raise UsageError(f"limits: {given} {name} can't be shared among {counted(cells, 'cell')}")
        return whole

    usd = None if limits.usd is None else limits.usd * part
    return limits.budget(), Budget(
        tokens=share("tokens", limits.tokens), calls=share("calls", limits.calls), usd=usd
    )
