"""A dry run: nothing sent, the exact prompts, and a bound that real usage never passes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from heartloop.backends.scripted import ScriptedBackend
from heartloop.engine.engine import Engine
from heartloop.engine.models import Model
from heartloop.errors import UsageError
from heartloop.runs.config import ArmConfig, ModelConfig, RunConfig
from heartloop.runs.dry_run import PLACEHOLDER, dry_run
from heartloop.strategies.prompts import Prompts
from heartloop.types import Problem, Sampling
from tests.cli.command import heartloop, sums, write_lines
from tests.support.fault_server import FaultServer


def bodies(server: FaultServer) -> list[list[Any]]:
    return [call["body"]["messages"] for call in server.calls]


@pytest.mark.parametrize(
    ("arm", "calls"),
    [
        (ArmConfig("a", "resample", "weighted", max_rounds=3), 3),
        (ArmConfig("a", "resample", "self_certainty", max_rounds=3), 3),
        (ArmConfig("a", "resample", "follow_up", max_rounds=3), 3 + 2 * 3),
        (ArmConfig("a", "resample", "reward", max_rounds=3), 3 + 3),
        (ArmConfig("a", "deepconf:attempts=8,warm_up=4", "deepconf"), 8),
        (ArmConfig("a", "heart", "pointwise", max_rounds=3, stop="confidence"), 3 + 3),
        (ArmConfig("a", "heart", "weighted", max_rounds=3, stop="confidence:of=mean"), 3),
        (ArmConfig("a", "resample", "majority", max_rounds=9, stop="gain:cost=0.3"), 9),
    ],
)
def test_the_bound_holds_for_judges_and_rules_that_look_at_what_a_stand_in_lacks(
    arm: ArmConfig, calls: int
) -> None:
    models = {
        "generator": ModelConfig("vllm/test", base_url="http://127.0.0.1:1/v1"),
        "reward": ModelConfig("vllm-score/test", base_url="http://127.0.0.1:1"),
    }
    problem = Problem("p", "What is 2 + 2?", reference="4")
    assert asyncio.run(dry_run(RunConfig(models, (arm,)), [problem])).calls == calls


def test_what_would_fail_is_said_and_bounds_nothing() -> None:
    models = {"generator": ModelConfig("test", base_url="http://127.0.0.1:1/v1")}
    config = RunConfig(models, (ArmConfig("a", "deepconf", "deepconf"),))
    with pytest.raises(UsageError, match=r"arm 'a' would fail: .*can't be stopped"):
        asyncio.run(dry_run(config, [Problem("p", "What is 2 + 2?")]))


@pytest.mark.parametrize(
    "options",
    [
        ["--strategy", "heart"],
        ["--strategy", "heart", "--width", "2", "--judge", "synthesis", "--shots", "2"],
        ["--strategy", "heart", "--judge", "oracle", "--rotation", "neutral:round_robin"],
        ["--strategy", "resample", "--judge", "synthesis"],
        ["--strategy", "self_reflection", "--stable-rounds", "2"],
        ["--strategy", "chain_of_thought"],
        ["--strategy", "single_pass", "--judge", "oracle"],
    ],
)
def test_prompts_and_bound(tmp_path: Path, options: list[str]) -> None:
    data = sums(tmp_path / "data.jsonl", 3)
    with FaultServer(wrong=1.0) as server:  # so that an oracle lets all rounds run
        call = ["--model", "test-model", "--base-url", server.base_url, "--max-rounds", "3", "--seed", "5"]
        call += ["--max-tokens", "200", "--price", "1", "3", *options]
        dry = heartloop("run", "--data", data, "--out", tmp_path / "dry", *call, "--dry-run", "--json")
        assert dry.code == 0
        assert server.calls == []
        assert not (tmp_path / "dry").exists()
        shown = dry.json["requests"]

        first = write_lines(tmp_path / "first.jsonl", [data.read_bytes().splitlines()[0]])
        one = heartloop("run", "--data", first, "--out", tmp_path / "one", *call, "-c", "1", "--json")
        assert one.code == 0
        sent = bodies(server)
        assert len(shown) >= len(sent)
        # The prompts are those that are sent, with the answers' places marked.
        marked = [request["messages"] for request in shown]
        answers = [message["content"] for body in sent for message in body if message["role"] == "assistant"]
        for body in sent:
            assert [message["role"] for message in body] in [[m["role"] for m in body2] for body2 in marked]
            if not any(message["content"] in answers for message in body) and "Attempt 1" not in str(body):
                assert body in marked
        said = {m["content"] for body in sent for m in body if m["role"] == "user"}
        planned = {m["content"] for body in marked for m in body if m["role"] == "user"}
        assert {text for text in said if "Attempt 1" not in text} <= planned

        real = heartloop("run", "--data", data, "--out", tmp_path / "real", *call, "--json").json
    used = real["prompt_tokens"]["confirmed"] + real["completion_tokens"]["confirmed"]
    assert real["calls"] <= dry.json["most_calls"]
    assert used <= dry.json["most_tokens"]
    assert real["cost_usd"] <= dry.json["most_usd"]
    assert dry.json["problems"] == 3


def test_the_bound_holds_where_a_final_answer_is_as_long_as_it_may_be(tmp_path: Path) -> None:
    """A synthesis lists each candidate's text and its final answer: the tokens of both count."""
    most = 300
    config = RunConfig(
        models={"generator": ModelConfig("scripted/echo", max_tokens=most)},
        arms=(ArmConfig("heart", "heart", "synthesis", max_rounds=4),),
    )
    problem = Problem("p", "What is it?", kind="text")
    bound = asyncio.run(dry_run(config, [problem]))

    def longest(request: Any) -> str:
        return "\\boxed{" + " ".join(f"w{len(request.messages)}{i}" for i in range(most)) + "}"

    async def real() -> int:
        backend = ScriptedBackend(longest)
        model = Model(backend=backend, sampling=Sampling(max_tokens=most))
        engine = Engine({"generator": model})
        solution = await engine.solve(problem, config.arms[0].arm(Prompts.default(), config.models))
        await engine.aclose()
        return solution.usage.total_tokens

    assert asyncio.run(real()) <= bound.tokens
    [synthesis] = [
        request for _, request in bound.requests if "Attempt 1" in str(request.messages[-1].content)
    ]
    assert str(synthesis.messages[-1].content).count(PLACEHOLDER) == 4


def test_on_a_screen(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 2)
    call = ["--model", "gpt-9", "--max-rounds", "2", "--out", str(tmp_path / "dry"), "--dry-run"]
    done = heartloop("run", "--data", data, *call)  # needs no key: nothing is sent
    assert done.code == 0
    assert "What is 0 + 0?" in done.out
    assert PLACEHOLDER in done.out
    assert "2 problems: at most 4 calls" in done.out
    assert "Nothing was sent." in done.out
    assert heartloop("run", "--data", tmp_path / "missing", *call).code == 2


def test_the_price_given_is_the_models_and_no_other_ones(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 1)
    table = tmp_path / "prices.toml"
    table.write_text('[[price]]\nmodels = ["other"]\nprompt = 100\ncompletion = 300\n')
    call = ["--model", "test-model", "--base-url", "http://127.0.0.1:9/v1", "--judge", "pairwise"]
    call += ["--max-rounds", "2", "--price", "1", "3", "--dry-run", "--json"]

    def most_usd(*more: str | Path) -> float | None:
        done = heartloop("run", "--data", data, "--out", tmp_path / "run", *call, *more)
        assert done.code == 0
        usd: float | None = done.json["most_usd"]
        return usd

    alone = most_usd()
    assert alone is not None
    assert most_usd("--judge-model", "test-model") == alone
    assert most_usd("--judge-model", "other") is None
    dearer = most_usd("--judge-model", "other", "--prices", table)
    assert dearer is not None
    assert dearer > 10 * alone
