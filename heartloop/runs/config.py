"""All that decides what a run does, as data: kept in its journal, read back on resume."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any, Self, TypeVar

import orjson

from heartloop.emotions.memory import memory_in
from heartloop.engine.dispatch import Price
from heartloop.engine.models import Model
from heartloop.engine.rates import check_rate
from heartloop.engine.replay import is_scope
from heartloop.engine.scheduler import scheduler_from_name
from heartloop.engine.solving import Arm
from heartloop.errors import JournalCorrupt, UsageError
from heartloop.graders import grader_from_name
from heartloop.graders.verify import Verify
from heartloop.judges import judge_from_name
from heartloop.judges.base import roles_needed
from heartloop.judges.reward import NEEDS_REWARD_MODEL
from heartloop.responders.chat import ChatResponder
from heartloop.runs.order import check_order
from heartloop.strategies import Strategy, strategy_from_name
from heartloop.strategies.prompts import Prompts
from heartloop.strategies.recorded import RECORDED, Recorded
from heartloop.types import Budget, Sampling

__all__ = ["ArmConfig", "ModelConfig", "RunConfig"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model as a run file or the command line gives it; see :class:`heartloop.Model`."""

    name: str
    base_url: str | None = None
    api_key_env: str | None = None
    temperature: float | None = 0.7
    top_p: float | None = None
    max_tokens: int = 2048
    concurrency: int | None = None
    adaptive: bool = True
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempt_timeout: float = 600.0
    hedge: bool = False
    price: tuple[float, float] | None = None
    prices: str | None = None
    context_tokens: int | None = None
    budget: Budget = Budget()
    slots: int | None = None
    logprobs: int | None = None
    batch: bool = False
    wave_size: int | None = None
    wave_seconds: float = 300.0
    batch_command: str | None = None

    def model(self) -> Model:
        """The model as the engine takes it. Raises UsageError for settings that can't be."""
        sampling = Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            logprobs=self.logprobs,
            logprobs_as="table" if self.logprobs is None else "summary",
        )
        options: dict[str, Any] = {}
        if self.slots is not None:
            options["slots"] = self.slots
        if self.batch_command is not None:
            if not self.name.startswith("vllm-batch/"):
                raise UsageError(f"a batch command is for vllm-batch/MODEL; {self.name!r} runs none")
            options["command"] = self.batch_command
        return Model(
            name=self.name,
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            sampling=sampling,
            concurrency=self.concurrency,
            adaptive=self.adaptive,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            hedge=self.hedge,
            attempt_timeout=self.attempt_timeout,
            price=None if self.price is None else Price(*self.price),
            prices=self.prices,
            budget=self.budget,
            context_tokens=self.context_tokens,
            batch=self.batch,
            wave_size=self.wave_size,
            wave_seconds=self.wave_seconds,
            options=options,
        )


@dataclass(frozen=True, slots=True)
class ArmConfig:
    """One strategy with its judge. ``name`` is part of every key in the journal.

    Attributes:
        seed: of the arm's own draws; None: the run's. First attempts are shared among arms of one seed only.
        label: what several arms have in common that differ in judge and seed (the cells of a grid); "":
            ``name``.
        grader: who says of every answer, after the problem has ended, whether it is right
            (:mod:`heartloop.graders`).
    """

    name: str
    strategy: str = "heart"
    judge: str = "majority"
    max_rounds: int = 6
    width: int = 1
    rotation: str = "alternating"
    deck: str | None = None
    stable_rounds: int | None = None
    score_after: bool = False
    stop: str | None = None
    seed: int | None = None
    label: str = ""
    grader: str = "verify"

    def fingerprint(self) -> str:
        """Changes when a finished problem would have to be looked at again."""
        settings = asdict(self)
        del settings["label"]  # only what it is called
        for name, default in (("stop", None), ("seed", None), ("grader", "verify")):
            if settings[name] == default:
                del settings[name]  # runs of before there were these keep theirs
        return blake2b(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()

    def arm(self, prompts: Prompts, models: dict[str, ModelConfig]) -> Arm:
        """The arm itself.

        Raises:
            UnknownName, UsageError, DataError: settings that name nothing or can't work.
        """
        options: dict[str, Any] = {}
        if self.deck is not None:
            from heartloop.emotions import Deck

            options["deck"] = Deck.load(self.deck)
        strategy: Strategy = Recorded()
        if self.strategy != RECORDED:
            strategy = strategy_from_name(
                self.strategy,
                max_rounds=self.max_rounds,
                width=self.width,
                rotation=self.rotation,
                stable_rounds=self.stable_rounds,
                stop=self.stop,
                **options,
            )
        judge, grader = judge_from_name(self.judge), grader_from_name(self.grader)
        if "reward" in roles_needed(judge) - models.keys():
            raise UsageError(NEEDS_REWARD_MODEL)
        if self.score_after and not judge.needs_reference:
            raise UsageError(
                f"--score-after goes with an oracle; the judge {self.judge!r} looks at all rounds anyway"
            )
        if (memory := memory_in(getattr(strategy, "rotation", None))) is not None:
            memory.check(oracle=judge.needs_reference and not self.score_after)
        return Arm(
            name=self.name,
            strategy=strategy,
            judge=judge,
            responder=ChatResponder(),
            prompts=prompts,
            gating=not self.score_after,
            scorer=grader.by_answer if isinstance(grader, Verify) else grader,
            models={role: role for role in models if role != "generator"},
            settings=self.fingerprint(),
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole run.

    Attributes:
        models: by role; ``"generator"`` is needed, ``"judge"`` and ``"synthesiser"`` default to it.
        arms: columns of the comparison.
        budget, arm_budget, problem_budget: limits of the run, of each arm, and of each problem of each arm.
        share_first: first attempts that arms make alike are made once.
        active: most problems in work at once; None: as many as the scheduler wants
            (:func:`heartloop.engine.scheduler.active_problems`).
        order: in which the problems are worked on (:mod:`heartloop.runs.order`).
        data: where the problems came from, for a person to read.
        benchmark: what a benchmark wants kept with the run, JSON-ready; the engine does not look at it.
    """

    models: dict[str, ModelConfig]
    arms: tuple[ArmConfig, ...]
    seed: int = 0
    budget: Budget = Budget()
    problem_budget: Budget = Budget()
    prompts: dict[str, Any] = field(default_factory=lambda: Prompts.default().as_dict())
    scheduler: str = "breadth_first"
    retries: int = 5
    share_first: bool = False
    active: int | None = None
    data: str = ""
    arm_budget: Budget = Budget()
    order: str = "data"
    benchmark: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "generator" not in self.models:
            raise UsageError("a run needs a model in the role 'generator'")
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise UsageError("a run needs at least one arm, and arms need different names")
        if kept := [name for name in names if is_scope(name)]:
            raise UsageError(f"an arm can't be called {kept[0]!r}: the journal keeps that name for itself")

    def check(self) -> None:
        """Whether a run can be made of this, asked before anything is written or sent.

        Raises:
            UnknownName, UsageError, DataError: a name that nothing has, settings that can't work, a key or
                price that is missing.
        """
        prompts = Prompts.from_dict(self.prompts)
        for arm in self.arms:
            arm.arm(prompts, self.models)
        scheduler_from_name(self.scheduler)
        check_order(self.order)
        for model in self.models.values():
            if model.price is not None and not all(0 <= dollars < math.inf for dollars in model.price):
                raise UsageError(f"a price is 0 or more dollars per million tokens, not {model.price}")
            check_rate("requests per minute", model.requests_per_minute)
            check_rate("tokens per minute", model.tokens_per_minute)
            limited = self.budget.usd, self.arm_budget.usd, self.problem_budget.usd, model.budget.usd
            if model.model().known_price() is None and any(usd is not None for usd in limited):
                raise UsageError(
                    f"a budget in dollars needs a price, and that of {model.name!r} is unknown: give dollars "
                    "per million prompt and completion tokens (--price PROMPT COMPLETION for --model, "
                    "a table with --prices FILE for any), or limit tokens"
                )
            model.model().make_backend()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. Holds no key: only the name of the variable that does."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            JournalCorrupt: it is not what :meth:`to_dict` writes.
        """
        try:
            models = {role: _made(ModelConfig, given) for role, given in data["models"].items()}
            models = {
                role: replace(
                    model,
                    budget=_made(Budget, model.budget),
                    price=None if model.price is None else (model.price[0], model.price[1]),
                )
                for role, model in models.items()
            }
            arms = tuple(_made(ArmConfig, given) for given in data["arms"])
            rest = {key: value for key, value in data.items() if key not in ("models", "arms")}
            for name in ("budget", "arm_budget", "problem_budget"):
                if name in rest:  # an older run has no limits for arms
                    rest[name] = _made(Budget, rest[name])
            known = {f.name for f in fields(cls)}
            return cls(models=models, arms=arms, **{k: v for k, v in rest.items() if k in known})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise JournalCorrupt(f"the run's settings can't be read: {error!r}") from error


def _made(kind: type[T], data: Any) -> T:
    return data if isinstance(data, kind) else kind(**data)
