"""The arms, strategies and judges of docs/results.md, in one command: on a fake server, at a tiny size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from heartloop.errors import DataError
from heartloop.journal.reader import JournalReader
from heartloop.judges import known_judges
from heartloop.runs.config import ModelConfig
from heartloop.runs.run import journal_in
from heartloop.runs.summary import outcomes
from heartloop.strategies import known_strategies
from heartloop_benchmarks import arms
from heartloop_benchmarks.arms_figures import Case, contrast, detectable, pooled
from heartloop_benchmarks.arms_report import HEADING, put_into
from tests.cli.command import sums
from tests.support.fault_server import FaultServer

PLAN = arms.Plan((), 0, (0, 1, 2), ModelConfig("local/smollm2-135m"))
SMALL = ["--others", "1", "--block", "2", "--seeds", "2", "--shots", "0", "--judge", "usc"]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer(wrong=0.5, seed=3) as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sums(tmp_path_factory.mktemp("data") / "data.jsonl", 4)


def command(server: FaultServer, data: Path, out: Path, *more: str) -> int:
    model = ["--model", "test-model", "--base-url", server.base_url, "--data", str(data)]
    return arms.main(["--out", str(out), *model, "--problems", "3", *SMALL, *more])


@pytest.fixture(scope="module")
def done(server: FaultServer, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three problems in two blocks; the tests only read it."""
    out = tmp_path_factory.mktemp("arms") / "out"
    assert command(server, data, out) == 0
    return out


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each table, without heads."""
    found: list[list[list[str]]] = [[]]
    for line in page.splitlines():
        if line.startswith("| "):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table[2:] for table in found if table]


def test_every_strategy_and_judge_is_run_or_it_is_said_why_not() -> None:
    run = {arm.strategy.partition(":")[0] for arm in arms.others_config(PLAN).arms}
    run |= {arm.strategy for arm in arms.affect_config(PLAN, 0).arms}
    assert run | set(arms.STRATEGIES_NOT_SERVED) == set(known_strategies())
    assert not run & set(arms.STRATEGIES_NOT_SERVED)
    judges = {spec.partition(":")[0].partition("(")[0] for spec in (*arms.FREE, *arms.CALLING)}
    assert judges | set(arms.JUDGES_NOT_SERVED) == set(known_judges())
    assert not judges & set(arms.JUDGES_NOT_SERVED)
    arms.affect_config(PLAN, 0).check()
    arms.others_config(PLAN).check()


def test_the_tables_are_what_the_journals_say(done: Path) -> None:
    page = (done / "results.md").read_text()
    assert page.startswith(HEADING)
    five, differences, strategies, stimuli, under, *judged = tables(page)
    rights: dict[str, dict[tuple[int, str], bool]] = {}
    for name, right, by_round, best, gained, lost, calls, tokens in five:
        arm = name.strip("`")
        rows = []
        for seed in (0, 1):
            with JournalReader(journal_in(done / f"affect-{seed}")) as journal:
                rows += [(seed, one) for one in outcomes(journal, arm)]
        rights[arm] = {(seed, one.problem_id): bool(one.correct) for seed, one in rows}
        lines = [[bool(row.correct) for row in one.rows] for _, one in rows]
        assert [len(line) for line in lines] == [3] * 6
        assert right.startswith(f"{sum(rights[arm].values()) / 6:.1%} (")
        assert by_round == " ".join(str(sum(line[k] for line in lines)) for k in range(3))
        assert int(best) == sum(map(any, lines))
        steps = [(line[k], line[k + 1]) for line in lines for k in (0, 1)]
        assert (int(gained), int(lost)) == (steps.count((False, True)), steps.count((True, False)))
        assert (calls, int(tokens)) == ("3.0", round(sum(o.usage.total_tokens for _, o in rows) / 6))
    assert list(rights) == ["bare_retry", "phrase", "twins", "irrelevant", "heart"]
    assert len({row[2].split()[0] for row in five}) == 1  # one first attempt for all
    by_hand = sum(rights["heart"][at] - rights["twins"][at] for at in rights["heart"]) / 6
    assert differences[0][0].startswith("`heart` − `twins` (**primary**)")
    assert differences[0][1].startswith(f"{by_hand:+.1%} (")
    assert len(strategies) == 16
    assert [row[0] for row in stimuli] == [f"`{name}`" for name in arms.STIMULI]
    assert [row[0] for row in under][-1] == "`resample-s1`"
    assert [len(table) for table in judged] == [len(arms.FREE)] * 2 + [len(arms.FREE) + 1]
    # The loops' own judge was the majority: judged again it says the same.
    assert judged[0][0][:1] == ["`majority`"]
    again = sum(map(sum, (found.values() for found in rights.values()))) / 30
    assert judged[0][0][1].startswith(f"{again:.1%} (")


def test_what_broke_off_goes_on_and_nothing_is_paid_twice(done: Path, data: Path, tmp_path: Path) -> None:
    broken = True

    def script(body: object, number: int) -> str:
        return "401" if broken and number > 60 else "ok"

    with FaultServer(wrong=0.5, seed=3, script=script) as server:
        assert command(server, data, tmp_path / "out") == 1
        assert not (tmp_path / "out" / "results.md").exists()
        broken = False
        assert command(server, data, tmp_path / "out") == 0
        answered = sum(call["fault"] == "ok" for call in server.calls)
        once = len(server.calls)
        assert command(server, data, tmp_path / "out") == 0
        assert len(server.calls) == once
        assert command(server, data, tmp_path / "out", "--temperature", "0.1") == 2
    found, whole = ((at / "results.md").read_text() for at in (tmp_path / "out", done))
    assert tables(found) == tables(whole)
    paid = int(whole.partition(" calls,")[0].rpartition(" ")[2])
    assert answered == paid


def test_the_clock_is_looked_at_between_blocks(server: FaultServer, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Seen\n\n{HEADING}\n\nof before\n\n## After\n\nkept\n")
    assert command(server, data, tmp_path / "out", "--minutes", "0.0001", "--into", str(page)) == 0
    text = page.read_text()
    assert "(2 problems, seeds 0, 1)" in text
    assert text.endswith("## After\n\nkept\n")
    assert "of before" not in text
    assert command(server, data, tmp_path / "out") == 0
    assert "(3 problems, seeds 0, 1)" in (tmp_path / "out" / "results.md").read_text()


def test_a_section_is_added_where_there_is_none(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Seen\n")
    put_into(page, f"{HEADING}\n\nnew\n")
    put_into(page, f"{HEADING}\n\nnewer \\1\n")
    assert page.read_text() == f"# Seen\n\n{HEADING}\n\nnewer \\1\n"
    with pytest.raises(DataError, match="can't read the page"):
        put_into(tmp_path / "none.md", "x")


def cases(*rights: int) -> list[Case]:
    return [Case(f"p{k}", bool(right), (bool(right),)) for k, right in enumerate(rights)]


def test_differences_are_clustered_by_problem() -> None:
    ones, zeros = cases(1, 1), cases(0, 0)
    found = contrast({0: ones, 1: ones}, {0: zeros, 1: zeros})
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert detectable({0: ones}, {0: zeros}) is None  # nothing varies
    # Both seeds gain on the first problem and on no other: drawn together, the mean is 0, 1/2 or 1.
    mixed = contrast({0: cases(1, 0), 1: cases(1, 0)}, {0: zeros, 1: zeros})
    assert (mixed.value, mixed.low, mixed.high) == (0.5, 0.0, 1.0)
    # Seeds of a problem are no further problems: differences by problem are 1, 1/2, 0 and -1/2.
    one = {0: cases(1, 1, 0, 0), 1: cases(1, 0, 1, 0)}
    other = {0: cases(0, 0, 1, 1), 1: cases(0, 0, 0, 0)}
    spread = math.sqrt(sum((d - 0.25) ** 2 for d in (1, 0.5, 0, -0.5)) / 3)
    quantiles = 3.18245 + 0.97847  # of Student's t with 3 degrees of freedom, at 0.975 and 0.8
    least = detectable(one, other)
    assert least is not None
    assert math.isclose(least, quantiles * spread / 2, rel_tol=1e-4)


def test_an_oracle_over_the_attempts_and_mixed_problems() -> None:
    rows = [Case("a", True, (False, True)), Case("b", False, (True, False)), Case("c", True, (True, True))]
    found = pooled(rows)
    assert (found.accuracy.value, found.first.value, found.oracle.value) == (2 / 3, 2 / 3, 1.0)
    assert found.mixed == 2
    assert found.mixed_accuracy is not None
    assert found.mixed_random is not None
    assert (found.mixed_accuracy.value, found.mixed_random.value) == (0.5, 0.5)
