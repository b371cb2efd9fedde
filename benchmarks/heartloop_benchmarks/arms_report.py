"""What the runs of :mod:`heartloop_benchmarks.arms` have shown, as a section of Markdown.

All figures are made from the journals, see :mod:`heartloop_benchmarks.arms_figures`. What was run with one
seed has Wilson intervals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from heartloop.errors import DataError
from heartloop.journal.reader import JournalReader
from heartloop.reports.judging import Figure, JudgeFigures
from heartloop.runs.intervals import wilson
from heartloop.runs.run import journal_in
from heartloop.runs.summary import ArmSummary
from heartloop_benchmarks.arms_figures import Case, Recorded, contrast, detectable, pooled

__all__ = ["HEADING", "OTHERS", "affect_folder", "judged_folder", "put_into", "section"]

HEADING = "## Affect, its controls, and judges without an oracle, on a test bench"
OTHERS = "others"
PRIMARY = ("heart", "twins")
LADDER = (("phrase", "bare_retry"), ("twins", "phrase"), ("irrelevant", "twins"), ("heart", "irrelevant"))


def affect_folder(out: Path, seed: int) -> Path:
    """Where the five arms of ``seed`` are."""
    return out / f"affect-{seed}"


def judged_folder(folder: Path) -> Path:
    """Where the judgements of the run in ``folder`` are."""
    return folder.with_name(f"{folder.name}-judged")


# --- the section -------------------------------------------------------------------------------------


def section(
    out: Path,
    seeds: Sequence[int],
    *,
    command: str,
    date: str,
    machine: str = "",
    left_out: Mapping[str, str] | None = None,
) -> str:
    """The section, from the runs in ``out``.

    Raises:
        UsageError: a run is missing, or numpy.
    """
    with ExitStack() as stack:

        def read(folder: Path) -> Recorded:
            return Recorded(stack.enter_context(JournalReader(journal_in(folder))))

        affect = {seed: read(affect_folder(out, seed)) for seed in seeds}
        judged = {seed: read(judged_folder(affect_folder(out, seed))) for seed in seeds}
        more = read(out / OTHERS) if (out / OTHERS).exists() else None
        more_judged = None if more is None else read(judged_folder(out / OTHERS))
        everything = [*affect.values(), *judged.values(), *(r for r in (more, more_judged) if r)]
        parts = [
            HEADING,
            *_head(affect, everything, command=command, date=date, machine=machine),
            *_affect(affect),
            *([] if more is None else _others(more)),
            *_free_judges(affect, judged),
            *([] if more_judged is None else _all_judges(more_judged)),
        ]
        if left_out:
            named = "; ".join(f"{name} {why}" for name, why in left_out.items())
            parts.append(f"Not run here: {named}.")
        return "\n\n".join(parts) + "\n"


def put_into(page: Path, text: str) -> None:
    """Replace the section of the same heading in ``page``, or add it at its end.

    Raises:
        DataError: there is no such page.
    """
    try:
        before = page.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{page}: can't read the page: {error.strerror}") from error
    place = re.compile(rf"^{re.escape(HEADING)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if place.search(before):
        after = place.sub(lambda _: text + "\n", before, count=1).rstrip("\n") + "\n"
    else:
        after = before.rstrip("\n") + "\n\n" + text
    page.write_text(after, encoding="utf-8")


def _head(
    affect: Mapping[int, Recorded],
    everything: Sequence[Recorded],
    *,
    command: str,
    date: str,
    machine: str,
) -> list[str]:
    first = next(iter(affect.values()))
    model = first.config.models["generator"]
    seconds = sum(run.summary.seconds for run in everything)
    calls = sum(run.summary.confirmed.calls for run in everything)
    prompt = sum(run.summary.confirmed.usage.prompt_tokens for run in everything)
    new = sum(run.summary.confirmed.usage.completion_tokens for run in everything)
    assumed = sum(run.summary.assumed.calls for run in everything)
    rounds = max(arm.max_rounds for arm in first.config.arms)
    told = (
        f"{calls:,} calls, {prompt:,} prompt and {new:,} completion tokens"
        + (f", {assumed} calls more charged as assumed" if assumed else "")
        + f", {seconds / 60:.1f} minutes"
        + (f" on {machine}" if machine else "")
        + f", {date}."
    )
    return [
        f"```\n{command}\n```",
        f"{model.name}, temperature {model.temperature:g}, at most {model.max_tokens} new tokens a call, "
        f"{first.config.data}. {told} The tables are the command's, from the journals.",
        "A model of 135M parameters is a test bench: it shows what is measured, and how surely, and is no "
        "evidence "
        "about large models or about affect in them."
        if "135m" in model.name.lower()
        else "One model on one set of problems; nothing here speaks of others.",
        f"**Caps.** {rounds} calls a problem for each of the five arms, the first attempt the same one for "
        "all. "
        "Everything that was spent counts: shared first attempts for each arm, critiques, notes, judges. *By "
        "round*: "
        "how often the latest answer is right at the end of round 1, 2, ... (any line's, where there are "
        "several); "
        "*any attempt*: how often an attempt is right, which is what an oracle over candidates would get.",
    ]


def _affect(affect: Mapping[int, Recorded]) -> list[str]:
    names = list(next(iter(affect.values())).arms)
    cases = {name: {seed: run.cases(name) for seed, run in affect.items()} for name in names}
    figures = {name: pooled(_together(cases[name].values())) for name in names}
    rows = []
    for name in names:
        arms = [run.arms[name] for run in affect.values()]
        made = _together(cases[name].values())
        rows.append([f"`{name}`", _figure(figures[name].accuracy), *_course(arms, made)])
    some = figures[names[0]]
    differences = [
        [
            f"`{a}` − `{b}`" + (" (**primary**)" if (a, b) == PRIMARY else ""),
            _figure(contrast(cases[a], cases[b]), sign=True),
            _points(detectable(cases[a], cases[b])),
        ]
        for a, b in (PRIMARY, *LADDER)
    ]
    primary = contrast(cases[PRIMARY[0]], cases[PRIMARY[1]])
    lost = [name for name in names if figures[name].accuracy.value < figures[name].first.value]
    won = [name for name in names if figures[name].accuracy.value > figures[name].first.value]
    early = sum(run.ended_early(name) for run in affect.values() for name in names)
    return [
        f"**The five arms, without an oracle** ({some.clusters} problems, seeds {_list(map(str, affect))}). "
        "All rounds "
        "run; the majority over the rounds is the answer. Intervals (95%) are from a bootstrap over "
        "problems, each "
        "with all its seeds." + (f" {early} problems ended early or failed." if early else ""),
        _table(("arm", "right", *COURSE), rows),
        f"First attempts are right in {_figure(some.first)}. After the loops the answer is right less often "
        "than that "
        f"in: {_named(lost)}; more often in: {_named(won)}.",
        _table(("difference", "in points, with 95% interval", "detectable"), differences),
        f"The interval of HEART less its twins {_touches(primary)}. *Detectable* is the true difference that "
        "a "
        "test at 5% would find with 80% power at this size. The differences below the primary one are for "
        "orientation, "
        "uncorrected for their number.",
    ]


def _others(more: Recorded) -> list[str]:
    blocks = []
    loops = [name for name in more.arms if not name.endswith("-s1")]
    under = [name for name in more.arms if name.endswith("-s1")]
    judges = {arm.name: arm.judge for arm in more.config.arms}
    odd = {name: judge for name, judge in judges.items() if name in loops and judge != "majority"}
    note = "; ".join(f"`{name}` by `{judge}`" for name, judge in odd.items())
    count = more.summary.problems
    early = sum(more.ended_early(name) for name in more.arms)
    blocks += [
        f"**All other strategies, without an oracle** (the first {count} problems, one seed, Wilson "
        "intervals). The "
        f"answer is the majority's where the method has none of its own{f' ({note})' if note else ''}. "
        "`heart` is there again "
        "for comparison." + (f" {early} problems of all arms ended early or failed." if early else ""),
        _table(("strategy", "right", *COURSE), [_one_seed(more, name) for name in loops]),
    ]
    stimuli = [more.arms[name] for name in loops if more.arms[name].mean_over_conditions is not None]
    if stimuli:
        blocks += [
            "With a stimulus drawn for each problem, an arm's accuracy estimates the mean over its set. The "
            "mean with each "
            "stimulus that was drawn counting alike:",
            _table(
                ("set", "stimuli drawn", "mean over them"),
                [[f"`{a.name}`", str(len(a.conditions)), _share(a.mean_over_conditions)] for a in stimuli],
            ),
        ]
    if under:
        blocks += [
            f"**Under an oracle** (S1: it ends the loop at the first right answer; the same {count} problems "
            "and seed). "
            "`resample` is what a loop has to beat.",
            _table(("arm", "right", *COURSE), [_one_seed(more, name) for name in under]),
        ]
    return blocks


def _free_judges(affect: Mapping[int, Recorded], judged: Mapping[int, Recorded]) -> list[str]:
    config = next(iter(judged.values())).config
    arms = list(next(iter(affect.values())).arms)
    judges = list(dict.fromkeys(arm.judge for arm in config.arms))

    def of(judge: str, names: Sequence[str]) -> list[Case]:
        return _together(run.cases(f"{name}@{judge}") for run in judged.values() for name in names)

    blocks = ["**Judges that call nobody**, over the recorded attempts of the five arms, all seeds."]
    for title, names in (("all five arms", arms), ("`heart` alone", ["heart"])):
        figures = {judge: pooled(of(judge, names)) for judge in judges}
        blocks += [_line_of(title, next(iter(figures.values()))), _judges(figures, (), {})]
    return blocks


def _all_judges(judged: Recorded) -> list[str]:
    arms: dict[str, dict[str, str]] = {}
    for arm in judged.config.arms:
        arms.setdefault(arm.judge, {})[arm.name.removesuffix(f"@{arm.judge}")] = arm.name
    figures = {
        judge: pooled(_together(judged.cases(name) for name in named.values()))
        for judge, named in arms.items()
    }
    sources = list(next(iter(arms.values())))
    more = {}
    for judge, named in arms.items():
        costs = [judged.arms[name] for name in named.values()]
        count = sum(cost.finished for cost in costs)
        right = [judged.arms[named[source]] for source in sources]
        more[judge] = [
            *(f"{one.solved}/{one.finished}" for one in right),
            _each(sum(cost.calls for cost in costs), count),
            f"{sum(cost.tokens for cost in costs) / max(1, count):,.0f}",
        ]
    early = sum(judged.ended_early(name) for name in judged.arms)
    both = " and ".join(f"`{source}`" for source in sources)
    heads = [*(f"right on `{source}`" for source in sources), "calls", "tokens"]
    return [
        f"**All judges**, over the attempts of {both} from the table of strategies, one seed. Calls and "
        "tokens "
        "are the judge's own, a problem." + (f" {early} judgements ended early or failed." if early else ""),
        _line_of(both, next(iter(figures.values()))),
        _judges(figures, heads, more),
    ]


def _line_of(title: str, figures: JudgeFigures) -> str:
    why = f" The share of that gain is not shown: {figures.share_why}." if figures.share is None else ""
    return (
        f"Attempts of {title}: {figures.problems} rows of {figures.clusters} problems, {figures.mixed} of "
        "them mixed. "
        f"First attempts are right in {_figure(figures.first)}, any attempt in "
        f"{_figure(figures.oracle)}.{why}"
    )


def _judges(
    figures: Mapping[str, JudgeFigures], more_heads: Sequence[str], more: Mapping[str, Sequence[str]]
) -> str:
    heads = ["judge", "right", "share of the oracle's gain kept", "on mixed problems", "random pick there"]
    rows = []
    for judge, found in figures.items():
        random = found.mixed_random
        rows.append(
            [
                f"`{judge}`",
                _figure(found.accuracy),
                "not shown" if found.share is None else _figure(found.share),
                _figure(found.mixed_accuracy),
                _share(None if random is None else random.value),
                *more.get(judge, ()),
            ]
        )
    return _table((*heads, *more_heads), rows)


# --- cells -------------------------------------------------------------------------------------------

COURSE = ("by round", "any attempt", "wrong→right", "right→wrong", "calls", "tokens")


def _course(arms: Sequence[ArmSummary], cases: Sequence[Case]) -> list[str]:
    """How the loops of one arm went, over its seeds; calls and tokens a problem."""
    finished = max(1, sum(arm.finished for arm in arms))
    rounds = max(len(arm.by_round) for arm in arms)
    right = [sum(arm.by_round[k][0] for arm in arms if k < len(arm.by_round)) for k in range(rounds)]
    return [
        " ".join(map(str, right)),
        str(sum(any(case.attempts) for case in cases)),
        str(sum(arm.wrong_to_right for arm in arms)),
        str(sum(arm.right_to_wrong for arm in arms)),
        _each(sum(arm.calls for arm in arms), finished),
        f"{sum(arm.tokens for arm in arms) / finished:,.0f}",
    ]


def _one_seed(run: Recorded, name: str) -> list[str]:
    arm = run.arms[name]
    low, high = wilson(arm.solved, arm.finished) or (0.0, 1.0)
    right = f"{arm.solved}/{arm.finished} = {_share(arm.solved / max(1, arm.finished))} ({_range(low, high)})"
    return [f"`{arm.name}`", right, *_course([arm], run.cases(name))]


def _figure(figure: Figure | None, *, sign: bool = False) -> str:
    if figure is None:
        return "–"
    return f"{figure.value * 100:{'+' if sign else ''}.1f}% ({_range(figure.low, figure.high, sign=sign)})"


def _range(low: float, high: float, *, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{low * 100:{plus}.1f} to {high * 100:{plus}.1f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f}%"


def _points(value: float | None) -> str:
    return "–" if value is None else f"±{value * 100:.1f}"


def _each(total: int, count: int) -> str:
    return f"{total / max(1, count):.1f}"


def _touches(figure: Figure) -> str:
    if figure.low <= 0 <= figure.high:
        return "holds 0: they can't be told apart here"
    return f"is {'above' if figure.low > 0 else 'below'} 0"


def _named(names: Sequence[str]) -> str:
    return _list(f"`{name}`" for name in names) or "none"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _together(parts: Iterable[Iterable[Case]]) -> list[Case]:
    return [case for part in parts for case in part]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
