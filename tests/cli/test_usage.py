"""What can't work is said at once, with what would; and what the command costs before it does anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import heartloop as package
from heartloop.commands.output import print_json
from tests.cli.command import environment, heartloop, run_process, sums
from tests.support.fault_server import FaultServer


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--strategy", "hart"],
            "unknown strategy 'hart'. Did you mean 'heart'? Known: ",
        ),
        (["--judge", "oracel"], "unknown judge 'oracel'. Did you mean 'oracle'? Known: "),
        (["--rotation", "spin"], "unknown rotation 'spin'. Known: adaptive, alternating, fixed,"),
        (["--rotation", "fixed:envy"], "unknown emotion 'envy'. Known: anger, disgust,"),
        (["--scheduler", "fifo"], "unknown scheduler 'fifo'. Known: "),
        (["--kind", "poem"], "unknown kind of answer 'poem'. Known: auto, choice,"),
        (["--base-url", "localhost:8000"], "base_url must look like http://HOST:PORT/v1"),
        (["--judge", "majority", "--score-after"], "--score-after goes with an oracle"),
        (["--budget-usd", "1"], "needs a price"),
        (["--budget-usd", "-1", "--price", "1", "1"], "usd must be positive"),
        (["--budget-usd", "1", "--price", "1", "1", "--judge-model", "other"], "that of 'other' is unknown"),
        (["--budget-seconds", "-5"], "seconds must be positive"),
        (["--budget-tokens", "0"], "--budget-tokens"),
        (["--price", "-1", "1"], "0 or more dollars"),
        (["--requests-per-minute", "0"], "must be positive"),
        (["--max-rounds", "0"], "--max-rounds"),
        (["--shots", "100000"], "worked examples of our own"),
        (["--shots", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--prompts", "nowhere.toml"], "nowhere.toml"),
        (["--deck", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_sent_or_written(
    tmp_path: Path, server: FaultServer, options: list[str], said: str
) -> None:
    data = sums(tmp_path / "data.jsonl", 2)
    call = ["--model", "test-model", "--base-url", server.base_url]
    done = heartloop("run", "--data", data, "--out", tmp_path / "run", *call, *options)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert server.calls == []
    assert not (tmp_path / "run").exists()


def test_unknown_models_and_missing_keys(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 2)
    for more, said in (
        (
            ["--model", "local/gpt"],
            "unknown local model 'local/gpt'. Known: local/PATH.gguf, local/smollm2-135m",
        ),
        (["--model", "scripted/no"], "Known: scripted/echo"),
        (["--model", "gpt-9"], "OPENAI_API_KEY"),
        (["--model", "openai/gpt-9", "--api-key-env", "MY_KEY"], "MY_KEY"),
        (["--model", ""], "no model given"),
    ):
        done = heartloop("run", "--data", data, "--out", tmp_path / "run", *more)
        assert done.code == 2
        assert said in done.err
        assert not (tmp_path / "run").exists()
        assert heartloop("solve", "What is 1 + 2?", *more).code == 2


def test_without_a_command_or_with_a_wrong_one(tmp_path: Path) -> None:
    assert "Usage: heartloop" in heartloop().out + heartloop().err
    assert heartloop("fly").code == 2
    assert heartloop("run").code == 2
    assert heartloop("--version").out == f"heartloop {package.__version__}\n"
    helped = heartloop("--help")
    assert helped.code == 0
    for command in ("solve", "run", "resume", "show", "export", "demo", "verify"):
        assert command in helped.out


HEAVY = {"openai", "aiohttp", "sympy", "rich.console", "xllamacpp", "httpx", "httpx2", "tenacity", "dspy"}


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import heartloop", HEAVY | {"typer", "rich", "click", "sqlite3", "orjson"}),
        ("from heartloop.cli import main; sys.argv = ['heartloop', '--help']; main()", HEAVY | {"sqlite3"}),
        ("from heartloop.cli import main; sys.argv = ['heartloop', 'run', '--help']; main()", HEAVY),
        ("from heartloop.cli import main; sys.argv = ['heartloop', '--version']; main()", HEAVY),
    ],
)
def test_what_is_asked_for_little_imports_little(code: str, unwanted: set[str]) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n" + code
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert done.returncode == 0
    assert not unwanted & set(done.stderr.split())


def test_help_in_a_real_process() -> None:
    done = run_process("--help")
    assert done.code == 0
    assert done.err == ""


def test_json_on_standard_output_is_json_whatever_it_holds(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Neither NaN nor half a surrogate pair, nor both, makes it something else."""

    def refused(name: str) -> float:
        raise AssertionError(name)

    print_json({"a": float("nan"), "b": [float("inf"), 1.5]})
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": "\ud800"})
    one, other = capfdbinary.readouterr().out.decode().split("}\n{")
    assert json.loads(one + "}", parse_constant=refused) == {"a": None, "b": [None, 1.5]}
    assert json.loads("{" + other, parse_constant=refused) == {"a": None, "b": [None, 1.5], "c": "\ud800"}
