"""``heartloop bench``: a grid from a run file or flags, kept so that it can be repeated, gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import (
    Done,
    ServerProcess,
    environment,
    finish,
    heartloop,
    process,
    run_process,
    wait_for,
    write_lines,
)
from tests.support.fault_server import FaultServer

NAMES = ["chain_of_thought", "resample", "twin", "heart"]


def gsm8k(path: Path, count: int) -> Path:
    """Sums in GSM8K's schema, which the fault server knows how to do."""
    return write_lines(
        path,
        (
            {"question": f"What is {i} + {2 * i}?", "answer": f"It is {i} and {2 * i}.\n#### {3 * i}"}
            for i in range(count)
        ),
    )


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(wrong=0.3) as running:
        yield running


def command(data: Path, base_url: str, out: Path, *more: str | Path) -> list[str | Path]:
    model: list[str | Path] = ["--model", "test-model", "--base-url", base_url, "--rounds", "3"]
    return ["bench", "gsm8k", "--data", data, *model, "--out", out, *more]


def exported(folder: Path) -> list[dict[str, Any]]:
    done = heartloop("export", folder)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def bench(*args: str | Path, **variables: str) -> Done:
    return heartloop(*args, **variables)


# --- a run ---------------------------------------------------------------------------------------------


def test_a_grid_is_one_run_whose_folder_says_how_to_repeat_it(tmp_path: Path, server: FaultServer) -> None:
    data, out = gsm8k(tmp_path / "data.jsonl", 6), tmp_path / "run"
    grid = ["--judge", "majority", "--judge", "oracle", "--seed", "3", "--seed", "4"]
    done = bench(*command(data, server.base_url, out, *grid, "--limit", "5", "--json"))
    assert done.code == 0, done.err
    cells = [f"{arm}/{judge}/s{seed}" for seed in (3, 4) for judge in ("majority", "oracle") for arm in NAMES]
    assert [arm["name"] for arm in done.json["arms"]] == cells
    assert all(arm["finished"] == arm["scored"] == 5 for arm in done.json["arms"])
    # The question is asked first once for each seed, whatever arms and judges there are.
    first = Counter(
        c["body"]["messages"][-1]["content"] for c in server.calls if len(c["body"]["messages"]) == 1
    )
    assert len(first) == 5
    asked_alone = [arm for arm in done.json["arms"] if arm["name"].startswith("chain_of_thought")]
    assert all(arm["calls"] == 5 for arm in asked_alone)  # charged to each, though made once for all
    kept = json.loads((out / "bench.json").read_bytes())
    assert kept == done.json["benchmark"]
    assert kept["name"] == "gsm8k"
    assert kept["data"]["problems"] == kept["data"]["questions"] == 5
    assert re.fullmatch("[0-9a-f]{64}", kept["data"]["sha256"])
    assert kept["seeds"] == [3, 4]
    assert [judge["setting"] for judge in kept["judges"]] == ["S2", "S1"]
    assert kept["primary"] == {
        "a": "heart",
        "b": "twin",
        "judge": "majority",
        "spec": "majority",
        "setting": "S2",
    }
    assert len(kept["detectable"]) == 3
    assert kept["versions"]["heartloop"]
    assert kept["versions"]["python"]
    assert kept["versions"]["openai"]
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in kept["prompts"]["templates"].values())
    assert kept["decks"].keys() == {""}
    assert kept["command"].startswith("heartloop bench gsm8k --data ")

    # The run file in the folder makes the same run.
    again = tmp_path / "again"
    repeated = bench("bench", "--config", out / "bench.toml", "--out", again, "--json")
    assert repeated.code == 0, repeated.err
    assert exported(again) == exported(out)
    for name in ("settings", "prompts", "decks", "data", "primary"):
        assert repeated.json["benchmark"][name] == (
            kept[name] if name != "settings" else {**kept[name], "out": str(again)}
        )


def test_the_same_command_goes_on_and_a_finished_run_asks_nothing(
    tmp_path: Path, server: FaultServer
) -> None:
    data, out = gsm8k(tmp_path / "data.jsonl", 4), tmp_path / "run"
    limited = bench(*command(data, server.base_url, out, "--budget-calls", "16", "--json"))
    assert limited.code == 3, limited.err
    before = len(server.calls)
    done = bench(*command(data, server.base_url, out, "--json"))
    assert done.code == 0, done.err
    assert all(arm["finished"] == 4 for arm in done.json["arms"])
    assert len(server.calls) > before
    whole = len(server.calls)
    for going_on in (
        command(data, server.base_url, out, "--concurrency", "3"),
        ["bench", "--resume", out],
        ["resume", out],
    ):
        assert bench(*going_on).code == 0
        assert len(server.calls) == whole


def test_no_cell_starves_another_and_a_higher_limit_ends_as_if_it_had_been_there(
    tmp_path: Path, server: FaultServer
) -> None:
    data, out = gsm8k(tmp_path / "data.jsonl", 12), tmp_path / "run"
    grid = ["-j", "majority", "-j", "oracle", "--concurrency", "4", "--json"]
    limited = bench(*command(data, server.base_url, out, *grid, "--budget-calls", "160"))
    assert limited.code == 3, limited.err
    arms = {arm["name"]: arm for arm in limited.json["arms"]}
    assert len(arms) == 8
    # 20 calls each: enough for single attempts of all problems; the others get as far as each other.
    assert arms["chain_of_thought/majority/s0"]["scored"] == 12
    for name in ("resample", "twin", "heart"):
        assert 18 <= arms[f"{name}/majority/s0"]["calls"] <= 20
    assert all(arm["calls"] <= 20 for arm in arms.values())
    assert limited.json["calls"] < 160  # shared first attempts count for each cell, and were made once
    assert "The budget ended first" in bench("resume", out).out
    assert bench("resume", out, "--budget-calls", "200").code == 3  # the cells' shares grow with the limit
    still = bench("bench", "--resume", out)
    assert "the run: 200 calls; each cell: 25 calls" in still.err
    done = bench(*command(data, server.base_url, out, *grid, "--budget-calls", "1600"))
    assert done.code == 0, done.err
    assert bench(*command(data, server.base_url, tmp_path / "free", *grid)).code == 0
    without = [line for line in exported(out) if line["kind"] != "taken"]  # what a limited arm shares
    assert without == exported(tmp_path / "free")


def sequence(server: FaultServer) -> list[str]:
    """The questions in the order in which they were first asked."""
    asked = [c["body"]["messages"] for c in server.calls]
    return [messages[-1]["content"] for messages in asked if len(messages) == 1]


def test_each_seed_has_an_order_of_its_own_unless_the_datas_is_asked(
    tmp_path: Path, server: FaultServer
) -> None:
    data = gsm8k(tmp_path / "data.jsonl", 8)
    one_by_one = [
        "--arm",
        "chain_of_thought",
        "--arm",
        "heart",
        "--concurrency",
        "1",
        "--active",
        "1",
        "--json",
    ]
    seen, kept = {}, {}
    for name, more in {
        "s0": ["--seed", "0"],
        "s0 again": ["--seed", "0"],
        "s1": ["--seed", "1"],
        "data": ["--seed", "1", "--order", "data"],
    }.items():
        server.calls.clear()
        done = bench(*command(data, server.base_url, tmp_path / name, *one_by_one, *more))
        assert done.code == 0, done.err
        seen[name], kept[name] = sequence(server), done.json["benchmark"]
    in_data = [f"What is {i} + {2 * i}?" for i in range(8)]
    assert [next(k for k in range(8) if in_data[k] in text) for text in seen["data"]] == list(range(8))
    assert seen["s0"] == seen["s0 again"]
    assert seen["s0"] != seen["s1"] != seen["data"] != seen["s0"]
    assert sorted(seen["s0"]) == sorted(seen["s1"]) == sorted(seen["data"])
    assert (kept["s1"]["order"], kept["data"]["order"]) == ("seed", "data")
    # What comes of a problem does not depend on when it is worked on.
    assert exported(tmp_path / "s1") == exported(tmp_path / "data")


def test_a_run_of_before_there_were_orders_goes_on_in_the_datas(tmp_path: Path, server: FaultServer) -> None:
    data, out = gsm8k(tmp_path / "data.jsonl", 4), tmp_path / "run"
    args = command(data, server.base_url, out, "--budget-calls", "16", "--order", "data")
    assert bench(*args).code == 3
    older(out)
    assert exported(out)
    refused = bench(*command(data, server.base_url, out, "--order", "seed"))
    assert refused.code == 2
    assert "order was 'data' and is 'seed'" in refused.err
    done = bench(*command(data, server.base_url, out, "--json"))
    assert done.code == 0, done.err
    assert done.json["benchmark"]["order"] == "data"
    assert all(arm["finished"] == 4 for arm in done.json["arms"])
    calls = len(server.calls)
    for going_on in (["bench", "--resume", out], ["resume", out], command(data, server.base_url, out)):
        assert bench(*going_on).code == 0
    assert len(server.calls) == calls


def older(folder: Path) -> None:
    """The run in ``folder`` as one that a HeartLoop without orders had made."""
    with closing(sqlite3.connect(folder / "journal.sqlite")) as connection, connection:
        [text] = connection.execute("SELECT value FROM meta WHERE key = 'config'").fetchone()
        config = json.loads(text)
        for table in (config, config["benchmark"], config["benchmark"]["settings"]):
            del table["order"]
        config["benchmark"]["flags"].pop("order", None)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'config'", (json.dumps(config),))


def test_without_a_folder_the_same_command_finds_its_own(tmp_path: Path, server: FaultServer) -> None:
    data = gsm8k(tmp_path / "data.jsonl", 2)
    args = command(data, server.base_url, tmp_path, "--json")
    del args[args.index("--out") : args.index("--out") + 2]
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        first, second = bench(*args), bench(*args)
        other = bench(*args, "--seed", "9")
        older(tmp_path / first.json["out"])
        third = bench(*args)
    finally:
        os.chdir(here)
    assert first.code == second.code == other.code == third.code == 0, first.err
    assert (third.json["out"], third.json["benchmark"]["order"]) == (first.json["out"], "data")
    assert first.json["out"] == second.json["out"] != other.json["out"]
    assert re.fullmatch(r"runs/gsm8k-[0-9a-f]{8}", first.json["out"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rounds", "4"], "caps.rounds was 3 and is 4"),
        (["--max-tokens", "99"], "model.max_tokens was 1024 and is 99"),
        (["--seed", "1"], "seeds was [0] and is [1]"),
        (["--model", "other"], "model.name was 'test-model' and is 'other'"),
        (["--judge", "oracle"], "judges[1].judge was 'majority' and is 'oracle'"),
        (["--arm", "heart"], "arms[1].name was not set and is 'heart'"),
        (["--limit", "2"], "limit was not set and is 2"),
        (["--primary", "heart - resample"], "primary.b was not set and is 'resample'"),
        (["--shots", "2"], "the system message or the worked examples have changed"),
    ],
)
def test_another_run_in_the_folder_is_refused_with_the_difference(
    tmp_path: Path, server: FaultServer, more: list[str], said: str
) -> None:
    data, out = gsm8k(tmp_path / "data.jsonl", 3), tmp_path / "run"
    assert bench(*command(data, server.base_url, out, "--limit", "3")[:-2]).code == 0
    calls = len(server.calls)
    done = bench(*command(data, server.base_url, out, *more))
    assert done.code == 2
    assert said in done.err
    assert f"heartloop resume {out}" in done.err
    assert len(server.calls) == calls


def test_changed_data_and_run_files_are_refused_and_missing_data_are_not(
    tmp_path: Path, server: FaultServer
) -> None:
    data, out, file = gsm8k(tmp_path / "data.jsonl", 3), tmp_path / "run", tmp_path / "run.toml"
    file.write_text(
        f'benchmark = "gsm8k"\ndata = "data.jsonl"\narms = ["heart"]\ncaps = {{ rounds = 2 }}\n'
        f'model = {{ name = "test-model", base_url = "{server.base_url}" }}\n'
    )
    assert bench("bench", "-f", file, "--out", out).code == 0
    text, lines = file.read_text(), data.read_text()

    file.write_text(text.replace("rounds = 2", "rounds = 3"))
    for going_on in (["--resume", out], ["-f", file, "--out", out]):
        done = bench("bench", *going_on)
        assert done.code == 2
        assert "caps.rounds was 2 and is 3" in done.err
    file.write_text(text)

    data.write_text(lines.replace("#### 3", "#### 4"))
    for going_on in (["--resume", out], [file, "--out", out]):
        done = bench("bench", *going_on)
        assert done.code == 2
        assert "the data's hash was" in done.err
        assert "the problems' hash was" in done.err
    gsm8k(data, 4)
    assert "the number of problems was 3 and is 4" in bench("bench", "--resume", out).err

    data.unlink()
    done = bench("bench", "--resume", out)
    assert done.code == 0, done.err
    assert "going on with the problems as they were recorded" in done.err
    file.unlink()
    data.write_text(lines)
    assert bench("bench", "--resume", out).code == 0


def test_other_runs_are_not_gone_on_with(tmp_path: Path, server: FaultServer) -> None:
    data, out = (
        write_lines(tmp_path / "d.jsonl", [{"question": "What is 1 + 2?", "answer": "3"}]),
        tmp_path / "r",
    )
    model = ["--model", "test-model", "--base-url", server.base_url]
    assert bench("run", "--data", data, *model, "--max-rounds", "1", "--out", out).code == 0
    assert f"heartloop resume {out}" in bench("bench", "--resume", out).err
    done = bench(*command(gsm8k(tmp_path / "data.jsonl", 1), server.base_url, out))
    assert done.code == 2
    assert "holds a run of another command" in done.err
    assert bench("bench", "--resume", tmp_path / "nowhere").code == 2


def test_keys_are_not_kept(tmp_path: Path, server: FaultServer) -> None:
    data, out = gsm8k(tmp_path / "data.jsonl", 1), tmp_path / "run"
    url = server.base_url.replace("http://", "http://user:sesame-open@") + "?api_key=sk-abcdefghijklmnop"
    secret = {"OPENAI_API_KEY": "sk-abcdefghijklmnop1234"}
    from heartloop_benchmarks.manifest import command_line

    shown = command_line(["heartloop", "bench", "--base-url", url, f"--base-url={url}", "--model", "m"])
    assert "sesame" not in shown
    assert "sk-abc" not in shown
    assert shown.endswith("--model m")
    assert bench(*command(data, server.base_url, out), **secret).code == 0
    for path in out.iterdir():
        assert b"sk-abcdef" not in path.read_bytes()


# --- interruption ---------------------------------------------------------------------------------------


def test_killed_and_interrupted_runs_end_as_undisturbed_ones_do(tmp_path: Path) -> None:
    data = gsm8k(tmp_path / "data.jsonl", 30)
    grid = ["--judge", "majority", "--judge", "oracle", "--concurrency", "16"]
    with FaultServer(wrong=0.3) as calm:
        undisturbed = bench(*command(data, calm.base_url, tmp_path / "calm", *grid))
    assert undisturbed.code == 0, undisturbed.err
    out = tmp_path / "run"
    with ServerProcess(tmp_path / "log.jsonl", "--delay-ms", "5", "40", "--wrong", "0.3") as server:
        again = command(data, server.base_url, out, *grid)
        ways: Sequence[list[str | Path]] = [again, ["bench", "--resume", out], ["resume", out], again]
        signals = [signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM]
        for way, number in zip(ways, signals, strict=True):
            goal = server.arrived() + 40
            started = process(*way)
            wait_for(lambda goal=goal: server.arrived() >= goal, started)  # type: ignore[misc]
            started.send_signal(number)
            done = finish(started)
            assert done.code == (-9 if number == signal.SIGKILL else 130), done
            assert "Traceback" not in done.err
        last = run_process(*again, "--json")
        arrived = server.arrived()
        assert run_process(*again).code == 0
        assert server.arrived() == arrived, "a finished run was gone on with and sent something"
    assert last.code == 0, last.err
    assert exported(out) == exported(tmp_path / "calm")


def test_a_kill_before_the_problems_are_stored_is_mended(tmp_path: Path, server: FaultServer) -> None:
    import sqlite3

    data, out = gsm8k(tmp_path / "data.jsonl", 3), tmp_path / "run"
    args = command(data, server.base_url, out, "--json")
    assert bench(*args).code == 0
    whole = exported(out)
    with sqlite3.connect(out / "journal.sqlite") as connection:  # as it is left by a kill at that moment
        for table in ("problems", "events", "results"):
            connection.execute(f"DELETE FROM {table}")
    connection.close()
    (out / "bench.toml").unlink()
    (out / "bench.json").unlink()
    done = bench(*args)
    assert done.code == 0, done.err
    assert exported(out) == whole
    assert tomllib.loads((out / "bench.toml").read_text())["benchmark"] == "gsm8k"


# --- before the run ----------------------------------------------------------------------------------------


def test_a_dry_run_sends_and_writes_nothing(tmp_path: Path, server: FaultServer) -> None:
    data, out = gsm8k(tmp_path / "data.jsonl", 5), tmp_path / "run"
    args = command(data, server.base_url, out, "--dry-run", "--price", "1", "2", "--discordance", "0.4")
    done = bench(*args, COLUMNS="80")
    assert done.code == 0, done.err
    for said in ("What is 0 + 0?", "heart - twin under majority (S2)", "differ on 40%", "Nothing was sent"):
        assert said in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    found = bench(*args, "--json").json
    # One shared first attempt, and two further ones of each of three arms.
    assert found["most_calls"] == 5 * (1 + 3 * 2)
    assert found["most_usd"] > 0
    assert found["cells"] == [f"{arm}/majority/s0" for arm in NAMES]
    assert found["benchmark"]["detectable"][0]["discordance"] == 0.4
    assert server.calls == []
    assert not out.exists()


def test_known_benchmarks_are_listed() -> None:
    assert "olympiadbench" in bench("bench").out
    listed = bench("bench", "--json").json["benchmarks"]
    assert {"olympiadbench", "hle", "simpleqa", "gpqa", "gsm8k"} <= {one["name"] for one in listed}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--option", "jugding=strict"], "unknown option of gsm8k"),
        (["--option", "judging"], "write NAME=VALUE"),
        (["--arm", "hart"], "unknown strategy 'hart'. Did you mean 'heart'?"),
        (["--arm", "heart", "--arm", "heart"], "arms: 'heart' is there twice"),
        (["--arm", "a=resample:rotation=random"], "rotation means nothing to the strategy 'resample'"),
        (["--arm", "heart:rounds=9"], "could make 9 attempts of a problem, and the cap for every arm is 3"),
        (["--arm", "heart:rounds=x"], "rounds is a whole number"),
        (["--judge", "oracel"], "unknown judge 'oracel'"),
        (["--judge", "oracle", "--judge", "oracle"], "judges: 'oracle' is there twice"),
        (["--seed", "1", "--seed", "1"], "seeds: '1' is there twice"),
        (["--seed", "-1"], "seeds[1] must be greater than or equal to 0"),
        (["--primary", "heart"], "no contrast: write 'A - B'"),
        (["--primary", "heart - hart"], "unknown arm of a contrast 'hart'. Did you mean 'heart'?"),
        (["--primary", "heart - twin @ oracle"], "unknown judge of the contrast heart - twin: 'oracle'"),
        (["--margin", "2"], "margin must be less than 1"),
        (["--discordance", "0"], "assume.discordance must be greater than 0"),
        (["--order", "file"], "order must be 'seed' or 'data'"),
        (["--rotation", "neutral:fixed:fear"], "have no affect"),
        (["--arm", "heart", "--arm", "twin:rotation=phrase"], "arm 'twin:rotation=phrase': twin sends"),
        (["--budget-calls", "3"], "3 calls can't be shared among 4 cells"),
        (["--budget-usd", "1"], "needs a price"),
        (["--preset", "affects"], "unknown set of arms 'affects'"),
        (["--data", "nowhere.jsonl"], "no such file"),
        (["--config", "nowhere.toml"], "can't read the run file"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_sent_or_written(
    tmp_path: Path, server: FaultServer, options: list[str], said: str
) -> None:
    data, out = gsm8k(tmp_path / "data.jsonl", 2), tmp_path / "run"
    done = bench(*command(data, server.base_url, out, *options))
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert server.calls == []
    assert not out.exists()


def test_a_benchmark_or_model_that_is_missing_is_named(tmp_path: Path) -> None:
    data = gsm8k(tmp_path / "data.jsonl", 1)
    assert "Did you mean 'gsm8k'?" in bench("bench", "gsm8", "--data", data, "-m", "scripted/echo").err
    assert "name one with --model" in bench("bench", "gsm8k", "--data", data).err
    file = tmp_path / "run.toml"
    file.write_text('benchmark = "gsm8k"\nmodel = "scripted/echo"\n')
    assert "is a run file for 'gsm8k', not for 'hle'" in bench("bench", "hle", "-f", file).err
    empty = write_lines(tmp_path / "empty.jsonl", [])
    done = bench("bench", "gsm8k", "--data", empty, "-m", "scripted/echo", "--out", tmp_path / "r")
    assert done.code == 2
    assert "no problem" in done.err


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from heartloop import cli; cli._add_commands();"
        "heavy = {'pydantic', 'scipy', 'numpy', 'openai', 'sympy', 'aiohttp'} & sys.modules.keys();"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
