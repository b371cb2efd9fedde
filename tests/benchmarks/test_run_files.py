"""Run files: checked to the last key; what they ask for becomes cells under equal caps."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.errors import UsageError
from heartloop.runs import dry_run
from heartloop.types import Budget
from heartloop_benchmarks.base import benchmark_from_name
from heartloop_benchmarks.grid import Grid, grid_of
from heartloop_benchmarks.runfile import checked, layered, read_run_file
from heartloop_benchmarks.runtables import RunFile
from heartloop_benchmarks.survey import source_of
from tests.cli.command import write_lines

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OWN = Path(__file__).resolve().parents[2] / "benchmarks" / "heartloop_benchmarks"
MODEL = {"name": "scripted/echo"}


def run_file(**tables: Any) -> RunFile:
    return checked({"benchmark": "gsm8k", "model": MODEL, **tables}, "test.toml")


def grid(name: str = "gsm8k", **tables: Any) -> Grid:
    file = run_file(benchmark=name, **tables)
    benchmark = benchmark_from_name(name)
    options = benchmark.options()
    models = {"generator": file.model.config()}
    return grid_of(file, benchmark, options, models, benchmark.prompts(options))


# --- checking --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"seds": [1]}, "unknown key 'seds'; did you mean 'seeds'?"),
        (
            {"model": {"name": "m", "max_tokns": 3}},
            "unknown key 'model.max_tokns'; did you mean 'max_tokens'?",
        ),
        ({"caps": {"attempt": 3}}, "unknown key 'caps.attempt'; did you mean 'attempts'?"),
        ({"caps": {"rounds": 1_000_000}}, "caps.rounds must be less than or equal to 1000, not 1000000"),
        ({"arms": [{"name": "a", "judges": []}]}, "arms[1].judges must have at least 1 item"),
        (
            {"arms": [{"name": "a", "strateg": "heart"}]},
            "unknown key 'arms[1].strateg'; did you mean 'strategy'?",
        ),
        ({"models": {"critic": MODEL}}, "unknown key 'models.critic'; known here: grader, judge, reward"),
        ({"families": [{"name": "f", "contrast": []}]}, "did you mean 'contrasts'?"),
        ({"limit": 0}, "limit must be greater than or equal to 1, not 0"),
        ({"limit": "5"}, "limit must be a valid integer, not '5'"),
        ({"limit": True}, "limit must be a valid integer, not True"),
        ({"seeds": []}, "seeds must have at least 1 item"),
        ({"seeds": 3}, "seeds must be a valid list, not 3"),
        ({"arms": [5]}, "arms[1] must be a table, not 5"),
        ({"arms": ["heart:width"]}, "an option is missing; write name=value"),
        ({"margin": 5}, "margin must be less than 1, not 5"),
        (
            {"model": {"name": "m", "temperature": "hot"}},
            "model.temperature must be a valid number, not 'hot'",
        ),
        ({"model": {"max_tokens": 3}}, "'model.name' is missing"),
        ({"caps": {"tokens": -1}}, "caps.tokens must be greater than or equal to 1, not -1"),
        ({"caps": {"usd": float("inf")}}, "caps.usd must be a finite number"),
        ({"assume": {"discordance": 0.2, "base_rate": 0.4}}, "both say how often the arms differ"),
        ({"primary": "heart twin"}, "'heart twin' is no contrast: write 'A - B'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        run_file(**tables)
    assert said in str(caught.value)
    assert str(caught.value).startswith("test.toml: ")
    assert "pydantic" not in str(caught.value)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        run_file(seds=[1], limit=0, margin=2)
    assert len(str(caught.value).splitlines()) == 3


def test_files_are_found_beside_the_run_file_and_variables_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text('data = "$HERE/d.jsonl"\ndeck = "cues.jsonl"\n[model]\nname = "m"\nprices = "p.toml"\n')
    monkeypatch.setenv("HERE", "/somewhere")
    tables = read_run_file(path)
    assert tables["data"] == "/somewhere/d.jsonl"
    assert tables["deck"] == str(tmp_path / "cues.jsonl")
    assert tables["model"]["prices"] == str(tmp_path / "p.toml")
    monkeypatch.delenv("HERE")
    with pytest.raises(UsageError, match="needs the environment variable HERE"):
        read_run_file(path)


@pytest.mark.parametrize("content", [b"seeds = [1", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_what_is_no_toml_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"run\.toml: "):
        read_run_file(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["model", "arms", "caps", "judges", "families", "seeds", "name"]), inner
            )
        ),
    )
)
def test_whatever_a_run_file_holds_the_error_is_ours(tables: Any) -> None:
    if isinstance(tables, Mapping):
        with pytest.raises(UsageError):
            checked({**tables, "benchmark": 7}, "test.toml")


def test_a_roles_model_has_the_main_models_settings_where_it_names_none() -> None:
    file = run_file(
        model={"name": "m", "base_url": "http://127.0.0.1:1/v1", "max_tokens": 9, "logprobs": 5},
        models={"judge": {"name": "j", "max_tokens": 4}},
    )
    judge = file.models["judge"].config()
    assert (judge.name, judge.base_url, judge.max_tokens, judge.logprobs) == (
        "j",
        "http://127.0.0.1:1/v1",
        4,
        None,
    )


def test_a_price_is_one_models() -> None:
    file = run_file(
        benchmark="gsm8k",
        model={"name": "m", "price": [1.0, 2.0]},
        models={"judge": {"name": "m"}, "grader": {"name": "j"}},
    )
    assert file.models["judge"].price == [1.0, 2.0]
    assert file.models["grader"].price is None


def test_flags_lie_over_the_file() -> None:
    below = {"seeds": [0, 1], "model": {"name": "m", "max_tokens": 9}}
    assert layered(below, {"seeds": [2], "model": {"max_tokens": 8}}) == {
        "seeds": [2],
        "model": {"name": "m", "max_tokens": 8},
    }


def test_a_run_file_that_was_resolved_says_the_same_again() -> None:
    file = run_file(
        arms=[
            "heart",
            "calm=heart:rotation=fixed:fear,width=2",
            {"name": "x", "strategy": "rsa:k=2", "width": 2},
        ],
        judges=["oracle", {"name": "after", "judge": "oracle", "score_after": True}],
        primary="heart - calm @ oracle",
        caps={"attempts": 9},
    )
    assert checked(file.to_dict(), "again") == file


# --- the grid --------------------------------------------------------------------------------


def test_cells_are_arms_of_one_run_with_equal_caps() -> None:
    made = grid(
        arms=["chain_of_thought", "resample", "twin", "heart"],
        judges=["majority", "oracle"],
        seeds=[3, 4],
        caps={"rounds": 4, "tokens": 900, "calls": 9},
        limits={"tokens": 16_000, "usd": 8.0},
    )
    assert len(made.arms) == 16
    assert made.arms[0].name == "chain_of_thought/majority/s3"
    assert {arm.label for arm in made.arms} == {"chain_of_thought", "resample", "twin", "heart"}
    assert {arm.seed for arm in made.arms} == {3, 4}
    assert {arm.grader for arm in made.arms} == {"verify"}
    twin = next(arm for arm in made.arms if arm.label == "twin")
    assert (twin.strategy, twin.rotation) == ("heart", "neutral:alternating")
    assert made.problem_budget == Budget(tokens=900, calls=9)
    assert made.arm_budget == Budget(tokens=1000, usd=0.5)
    assert made.budget == Budget(tokens=16_000, usd=8.0)
    assert made.attempts == {"chain_of_thought": 1, "resample": 4, "twin": 4, "heart": 4}


def test_a_cap_of_attempts_gives_each_strategy_what_it_can_make_of_it() -> None:
    made = grid(
        arms=[
            "heart:width=3",
            "resample",
            "parallel_heart:width=3",
            "rsa:k=2,width=2",
            "pdr:width=3",
            "reflexion",
        ],
        caps={"attempts": 10},
    )
    assert made.most_attempts == 10
    assert dict(made.attempts) == {
        "heart:width=3": 10,
        "resample": 10,
        "parallel_heart:width=3": 10,
        "rsa:k=2,width=2": 10,
        "pdr:width=3": 10,
        "reflexion": 10,
    }


@given(rounds=st.integers(1, 5), width=st.integers(1, 4))
def test_no_arm_ever_makes_more_attempts_than_the_cap(rounds: int, width: int) -> None:
    made = grid(
        arms=["resample", "heart", "self_consistency", "bare_retry"], caps={"rounds": rounds}, width=width
    )
    assert made.most_attempts == 1 + (rounds - 1) * width
    assert set(made.attempts.values()) == {made.most_attempts}


def test_presets_are_grids_too() -> None:
    made = grid(preset="affect", caps={"rounds": 3})
    assert made.labels == ("bare_retry", "phrase", "twins", "irrelevant", "heart")
    assert made.primary is not None
    assert (made.primary["a"], made.primary["b"]) == ("heart", "twins")
    assert "rsa" in grid(preset="baselines", caps={"rounds": 4}).labels
    assert grid(preset="affect", arms=["resample"]).labels[-1] == "resample"


def test_stopping_and_scoring_may_be_two_graders() -> None:
    made = grid("olympiadbench", judges=["oracle:grader=verify"], grader="verify:mode=official")
    assert {arm.judge for arm in made.arms} == {"oracle:grader=verify"}
    assert {arm.grader for arm in made.arms} == {"verify:mode=official"}
    own = grid("olympiadbench", judges=["oracle"])
    benchmark = benchmark_from_name("olympiadbench")
    assert {arm.judge for arm in own.arms} == {benchmark.oracle(benchmark.options())}
    assert {arm.grader for arm in own.arms} == {benchmark.grader(benchmark.options())}


def test_a_grader_that_asks_a_model_has_its_share_set_aside() -> None:
    assert grid("simpleqa", arms=["heart", "twin"], limits={"calls": 40}).arm_budget == Budget(calls=10)
    more = {"calls": 40, "grading": 0.25}
    assert grid("simpleqa", arms=["heart", "twin"], limits=more).arm_budget == Budget(calls=15)
    assert grid("gsm8k", arms=["heart", "twin"], limits={"calls": 40}).arm_budget == Budget(calls=20)


def test_the_primary_contrast_is_heart_less_its_twin_without_an_oracle() -> None:
    made = grid(judges=["oracle", "majority"])
    assert made.primary == {
        "a": "heart",
        "b": "twin",
        "judge": "majority",
        "spec": "majority",
        "setting": "S2",
    }
    assert not made.notes
    only_s1 = grid(judges=["oracle"])
    assert only_s1.primary is not None
    assert only_s1.primary["setting"] == "S1"
    assert "knows the reference" in only_s1.notes[0]
    none = grid(arms=["resample", "bare_retry"])
    assert none.primary is None
    assert "exploratory" in none.notes[0]
    anger = grid(
        arms=["a=heart:rotation=fixed:anger", {"name": "b", "rotation": "fixed:anger", "twin": True}]
    )
    assert anger.primary is not None
    assert (anger.primary["a"], anger.primary["b"]) == ("a", "b")


def test_arms_may_have_judges_of_their_own() -> None:
    made = grid(
        arms=[
            "heart",
            "twin",
            {"name": "chain_of_thought", "strategy": "chain_of_thought", "judges": ["majority"]},
        ],
        judges=["majority", "oracle"],
    )
    assert len(made.arms) == 5
    with pytest.raises(UsageError, match="unknown judge of arm 'x' 'none'"):
        grid(arms=[{"name": "x", "judges": ["none"]}])
    with pytest.raises(UsageError, match="does not run under 'oracle'"):
        grid(
            arms=["heart", {"name": "x", "judges": ["majority"]}],
            judges=["majority", "oracle"],
            primary="heart - x @ oracle",
        )


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"arms": [{"name": "x", "strategy": "resample", "twin": True}]}, "it has no twin"),
        ({"arms": [{"name": "x", "rotation": "irrelevant", "twin": True}]}, "arm 'x': twin sends the affect"),
        ({"rotation": "neutral@strong"}, "'neutral@strong' have no affect"),
        ({"arms": ["heart:rotation=neutral:phrase"]}, "'phrase' is itself a control"),
        ({"arms": ["chain_of_thought:rounds=3"]}, "rounds means nothing to the strategy 'chain_of_thought'"),
        ({"arms": []}, "no arms: name some"),
        ({"arms": ["heart(twin)"]}, "takes nothing in parentheses"),
        (
            {"judges": [{"name": "x", "judge": "majority", "score_after": True}]},
            "score_after goes with an oracle",
        ),
        ({"grader": "verfy"}, "unknown grader 'verfy'. Did you mean 'verify'?"),
        ({"primary": "heart - heart"}, "a contrast of 'heart' with itself"),
        ({"families": [{"name": "f", "contrasts": ["heart - x"]}]}, "unknown arm of a contrast 'x'"),
    ],
)
def test_grids_that_can_not_be_are_refused(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        grid(**tables)
    assert said in str(caught.value)


# --- problems --------------------------------------------------------------------------------


def sums(path: Path, count: int) -> Path:
    return write_lines(
        path, ({"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(count))
    )


def test_repeats_are_problems_of_one_group(tmp_path: Path) -> None:
    data = str(sums(tmp_path / "d.jsonl", 5))
    source = source_of(run_file(data=data, repeats=3, limit=2), benchmark_from_name("gsm8k"))
    found = list(source.problems())
    assert len(found) == 6
    assert len({problem.id for problem in found}) == 6
    assert {problem.id.rpartition("#")[2] for problem in found} == {"r1", "r2", "r3"}
    assert [problem.metadata["repeat"] for problem in found] == [1, 2, 3, 1, 2, 3]
    assert len({problem.metadata["group"] for problem in found}) == 2
    survey = source.survey()
    assert (survey.problems, survey.questions) == (6, 2)


def test_the_protocols_own_repeats_are_limited_by_question(tmp_path: Path) -> None:
    rows = (
        {"Question": f"Which is {i}?", "Correct Answer": f"a{i}", "Record ID": f"id{i}"}
        | {f"Incorrect Answer {k}": f"w{i}{k}" for k in (1, 2, 3)}
        for i in range(6)
    )
    data = str(write_lines(tmp_path / "d.jsonl", rows))
    for repeats, whole in ((None, 12), (2, 6)):
        file = run_file(
            benchmark="gpqa", data=data, limit=3, **({} if repeats is None else {"repeats": repeats})
        )
        survey = source_of(file, benchmark_from_name("gpqa")).survey()
        assert (survey.problems, survey.questions) == (whole, 3)
    with pytest.raises(UsageError, match="they are the same thing"):
        source_of(
            run_file(benchmark="gpqa", data=data, repeats=2, options={"repeats": 3}),
            benchmark_from_name("gpqa"),
        )


def test_the_hash_is_of_the_problems_and_not_of_where_they_lie(tmp_path: Path) -> None:
    def sha256(name: str, **tables: Any) -> str:
        folder = tmp_path / name
        folder.mkdir()
        data = str(sums(folder / f"{name}.jsonl", 4))
        return source_of(run_file(data=data, **tables), benchmark_from_name("gsm8k")).survey().sha256

    assert sha256("a") == sha256("b")
    assert sha256("c", limit=3) != sha256("d") != sha256("e", repeats=2)


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    text = "x" * 50_000
    rows = ({"question": f"{text} {i}?", "answer": f"#### {i}"} for i in range(400))  # 20 MB
    source = source_of(
        run_file(data=str(write_lines(tmp_path / "d.jsonl", rows))), benchmark_from_name("gsm8k")
    )
    tracemalloc.start()
    try:
        survey = source.survey()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert survey.problems == 400
    assert peak < 3_000_000


def test_a_loop_without_end_is_not_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "MOST_CALLS", 50)
    with pytest.raises(UsageError, match="'a' could make more than 50 calls of one problem"):
        grid(caps={"attempts": 1000}, arms=["a=resample:rounds=10,width=10"])


# --- ours --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted([*EXAMPLES.glob("*.toml"), *OWN.glob("runs/*.toml")]), ids=lambda path: path.stem
)
def test_run_files_of_the_repository_are_as_they_should_be(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTLOOP_DATA", "/data")
    file = checked(read_run_file(path), str(path))
    benchmark = benchmark_from_name(file.benchmark)
    options = benchmark.options(**file.options)
    made = grid_of(file, benchmark, options, {"generator": file.model.config()}, benchmark.prompts(options))
    assert made.primary is not None
    assert made.primary["setting"] == "S2"
