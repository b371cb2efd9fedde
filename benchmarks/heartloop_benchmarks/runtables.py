"""The tables of a run file of ``heartloop bench``; docs/bench.md explains them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from heartloop.errors import UsageError
from heartloop.runs.config import ModelConfig
from heartloop.specs import parsed
from heartloop.types import Budget

__all__ = [
    "ArmTable",
    "Assume",
    "Caps",
    "ContrastTable",
    "FamilyTable",
    "JudgeTable",
    "Limits",
    "ModelTable",
    "RunFile",
]

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1, le=1000)]
"""Of a loop over one problem. What is asked for is gone through once before the run, and a slip of the
keyboard would keep that busy for hours."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelTable(_Table):
    """A model; the same settings as ``heartloop run``'s options."""

    name: Text
    base_url: Text | None = None
    api_key_env: Text | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Count = 1024
    context_tokens: Count | None = None
    concurrency: Count | None = None
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    timeout: Positive = 600.0
    hedge: bool = False
    batch: bool = False
    wave_size: Count | None = None
    wave_seconds: Positive = 300.0
    batch_command: str | None = None
    price: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    prices: Text | None = None
    slots: Count | None = None
    logprobs: Annotated[int, Field(ge=2, le=20)] | None = None

    def config(self) -> ModelConfig:
        """The model as a run keeps it."""
        given = self.model_dump(exclude={"timeout", "price"})
        price = None if self.price is None else (self.price[0], self.price[1])
        return ModelConfig(**given, attempt_timeout=self.timeout, price=price)


def _arm_from_text(value: Any) -> Any:
    """``"heart"``, ``"twin"``, ``"anger=heart:rotation=fixed:anger,width=2"``: an arm in a word."""
    if not isinstance(value, str):
        return value
    label, text = "", value.strip()
    if named := re.match(r"([^\s=:(),]+)\s*=\s*(?=[A-Za-z_])", text):
        label, text = named.group(1), text[named.end() :]
    spec = parsed("arm", text)
    if spec.parts:
        raise UsageError(f"arm {value!r}: an arm takes nothing in parentheses")
    table: dict[str, Any] = {"name": label or spec.text}
    own = []
    for name, given in spec.options.items():
        if name in ("rounds", "width", "stable_rounds"):
            if not given.isdigit():
                raise UsageError(f"arm {value!r}: {name} is a whole number, not {given!r}")
            table[name] = int(given)
        elif name in ("rotation", "stop", "deck"):
            table[name] = given
        else:
            own.append(f"{name}={given}")
    shorthand = _SHORT.get(spec.name)
    if shorthand is not None:
        return {**shorthand, **table}
    table["strategy"] = f"{spec.name}:{','.join(own)}" if own else spec.name
    return table


_SHORT: Mapping[str, Mapping[str, Any]] = {
    "twin": {"strategy": "heart", "twin": True},
    "phrase": {"strategy": "heart", "rotation": "phrase"},
}


class ArmTable(_Table):
    """An arm of the grid: everything but judge and seed. What is left out is the run's.

    Attributes:
        name: its label in every cell.
        twin: send the affect-free twins, on exactly the schedule that ``rotation`` would have had.
        judges: names of the judges that it runs under; None: all of the run's.
    """

    name: Text
    strategy: Text = "heart"
    rotation: Text | None = None
    twin: bool = False
    width: Size | None = None
    rounds: Size | None = None
    stop: Text | None = None
    stable_rounds: Annotated[int, Field(ge=2)] | None = None
    deck: Text | None = None
    judges: Annotated[list[Text], Field(min_length=1)] | None = None


def _judge_from_text(value: Any) -> Any:
    return {"name": "".join(value.split()), "judge": value} if isinstance(value, str) else value


class JudgeTable(_Table):
    """A judge. ``"oracle"`` without options is the benchmark's own; with ``score_after`` all rounds are run,
    and it looks afterwards."""

    name: Text
    judge: Text
    score_after: bool = False


def _contrast_from_text(value: Any) -> Any:
    """``"heart - twin"``, ``"heart - twin @ majority"``."""
    if not isinstance(value, str):
        return value
    arms, at, judge = value.rpartition(" @ ") if " @ " in value else (value, "", "")
    a, minus, b = arms.partition(" - ")
    if not (minus and a.strip() and b.strip()):
        raise UsageError(f"{value!r} is no contrast: write 'A - B' or 'A - B @ JUDGE', with spaces")
    return {"a": a.strip(), "b": b.strip(), **({"judge": judge.strip()} if at else {})}


class ContrastTable(_Table):
    """Accuracy of arm ``a`` less that of ``b``, under one judge (None: the first verifier-free one)."""

    a: Text
    b: Text
    judge: Text | None = None


Contrast = Annotated[ContrastTable, BeforeValidator(_contrast_from_text)]


class FamilyTable(_Table):
    """Contrasts declared together: the chance of any false finding among them is held."""

    name: Text
    contrasts: Annotated[list[Contrast], Field(min_length=1)]


class Caps(_Table):
    """Limits of each problem in each cell.

    Attributes:
        rounds: of an arm that names none; attempts: most attempts that any arm may make.
    """

    rounds: Size | None = None
    attempts: Size | None = None
    tokens: Count | None = None
    calls: Count | None = None
    seconds: Positive | None = None
    usd: Positive | None = None

    def budget(self) -> Budget:
        """The problem's budget."""
        return Budget(self.tokens, self.calls, self.seconds, self.usd)


class Limits(_Table):
    """Limits of the whole run; each cell gets an equal share (seconds are common to all).

    Attributes:
        grading: share that is set aside for a grader that asks a model, since it is paid from the run's
            limits and no cell's; None: half where there is such a grader.
    """

    tokens: Count | None = None
    calls: Count | None = None
    seconds: Positive | None = None
    usd: Positive | None = None
    grading: Annotated[float, Field(ge=0, lt=1)] | None = None

    def budget(self) -> Budget:
        """The run's budget."""
        return Budget(self.tokens, self.calls, self.seconds, self.usd)


class Assume(_Table):
    """What the detectable difference is worked out with; see :mod:`heartloop.reports.detectable`.

    Attributes:
        discordance: share of questions on which the arms differ, in place of ``base_rate``.
            None: by ``base_rate`` and ``agreement`` where they are given, else several are shown.
        agreement: correlation of being right in one arm and in the other.
        correlation: of the differences of one problem's seeds and repeats.
    """

    discordance: Share | None = None
    base_rate: Share | None = None
    agreement: Annotated[float, Field(ge=0, le=1)] = 0.5
    correlation: Annotated[float, Field(ge=0, le=1)] = 0.5
    alpha: Share = 0.05
    power: Share = 0.8

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.discordance is not None and self.base_rate is not None:
            raise UsageError(
                "assume.discordance and assume.base_rate both say how often the arms differ: leave one out"
            )
        return self


class RunFile(_Table):
    """A whole run file. See docs/bench.md.

    Attributes:
        order: None: that of the run that is gone on with, else ``"seed"`` (:mod:`heartloop.runs.order`).
    """

    benchmark: Text
    data: Text | None = None
    revision: Text | None = None
    out: Text | None = None
    limit: Count | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)] = [0]
    repeats: Count | None = None
    preset: Text | None = None
    arms: list[Annotated[ArmTable, BeforeValidator(_arm_from_text)]] | None = None
    judges: Annotated[list[Annotated[JudgeTable, BeforeValidator(_judge_from_text)]], Field(min_length=1)] = (
        Field(default=["majority"], validate_default=True)
    )
    score_after: bool = False
    grader: Text | None = None
    rotation: Text = "alternating"
    width: Size = 1
    stop: Text | None = None
    stable_rounds: Annotated[int, Field(ge=2)] | None = None
    deck: Text | None = None
    prompts: Text | None = None
    shots: Count | Text | None = None
    share_first: bool = True
    order: Literal["seed", "data"] | None = None
    scheduler: Text = "breadth_first"
    retries: Annotated[int, Field(ge=0)] = 5
    active: Count | None = None
    margin: Share | None = None
    model: ModelTable
    models: dict[Literal["judge", "synthesiser", "grader", "reward"], ModelTable] = {}
    options: dict[str, Any] = {}
    caps: Caps = Caps()
    limits: Limits = Limits()
    primary: Contrast | None = None
    families: list[FamilyTable] = []
    assume: Assume = Assume()

    def to_dict(self) -> dict[str, Any]:
        """As TOML can hold it: without what is None."""
        return self.model_dump(exclude_none=True)
