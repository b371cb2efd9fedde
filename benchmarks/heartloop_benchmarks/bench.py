"""A benchmark run from its run file: prepared, created or gone on with, and what its folder gets.

Beside the journal the folder holds ``bench.toml``, the run file with everything filled in (running it again
repeats the run), and ``bench.json``: versions, hashes, the declared contrasts, what was detectable. The
journal has all of it too, and is enough to resume.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import orjson

from heartloop.commands.work import make_prompts
from heartloop.errors import JournalError, UsageError
from heartloop.journal.reader import JournalReader
from heartloop.reports.detectable import assumed_discordance, detectable_difference
from heartloop.runs.config import RunConfig
from heartloop.runs.run import JOURNAL_NAME, Run, journal_in
from heartloop_benchmarks.base import benchmark_from_name
from heartloop_benchmarks.grid import Grid, grid_of
from heartloop_benchmarks.manifest import FREE, differences, manifest_of, versions
from heartloop_benchmarks.runfile import layered, read_run_file
from heartloop_benchmarks.runtables import RunFile
from heartloop_benchmarks.survey import Source, Survey, source_of

__all__ = [
    "MANIFEST_NAME",
    "RUN_FILE_NAME",
    "Prepared",
    "kept_flags",
    "kept_tables",
    "opened",
    "opened_without_data",
    "prepared",
]

RUN_FILE_NAME = "bench.toml"
MANIFEST_NAME = "bench.json"
_DISCORDANCES = (0.1, 0.2, 0.3)
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run file with its benchmark, data and grid; nothing is written yet.

    Attributes:
        config: the run, its manifest in :attr:`~heartloop.runs.config.RunConfig.benchmark`.
        out: the run's folder.
    """

    file: RunFile
    source: Source
    survey: Survey
    grid: Grid
    config: RunConfig
    out: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """What is kept with the run."""
        return self.config.benchmark


def prepared(
    file: RunFile,
    *,
    command: str,
    flags: Mapping[str, Any] = _NONE,
    read_from: Path | None = None,
) -> Prepared:
    """Everything that comes before the run, all its problems looked at once.

    Args:
        command: as it is kept; flags: what it laid over the run file ``read_from``, where there was one.

    Raises:
        UsageError, DataError: what can't work, before anything is written or sent.
    """
    benchmark = benchmark_from_name(file.benchmark)
    source = source_of(file, benchmark)
    models = {"generator": file.model.config()}
    models |= {role: model.config() for role, model in file.models.items()}
    shots = None if file.shots is None else str(file.shots)
    wording = Path(file.prompts) if file.prompts is not None else None
    prompts = make_prompts(wording, shots, benchmark.prompts(source.options))
    grid = grid_of(file, benchmark, source.options, models, prompts)
    config = grid.config(file, models, prompts)
    config.check()
    survey = source.survey()
    manifest = manifest_of(
        file,
        benchmark,
        source,
        survey,
        grid,
        prompts,
        detectable=_detectable(file, survey, grid),
        command=command,
        flags=flags,
        read_from=read_from,
    )
    out = Path(file.out) if file.out is not None else _own_folder(manifest)
    order = file.order or _order_in(out)
    file = file.model_copy(update={"order": order})
    manifest = {**manifest, "order": order, "settings": file.to_dict()}
    config = replace(config, order=order, data=source.data.source, benchmark=manifest)
    return Prepared(file, source, survey, grid, config, out)


def _order_in(folder: Path) -> Literal["data", "seed"]:
    """The order of the run in ``folder``; the default where there is none."""
    if not (folder / JOURNAL_NAME).exists():
        return "seed"
    with JournalReader(journal_in(folder)) as journal:
        return "seed" if RunConfig.from_dict(journal.meta.get("config", {})).order == "seed" else "data"


def _detectable(file: RunFile, survey: Survey, grid: Grid) -> list[dict[str, Any]]:
    """Detectable differences of the primary contrast, under what is assumed or else under several guesses."""
    assume = file.assume
    shares: tuple[float, ...] = _DISCORDANCES
    if assume.discordance is not None:
        shares = (assume.discordance,)
    elif assume.base_rate is not None:
        shares = (assumed_discordance(assume.base_rate, assume.agreement),)
    replicates = len(grid.seeds) * max(1, survey.problems // survey.questions)
    found = []
    for share in shares:
        one = detectable_difference(
            survey.questions,
            replicates=replicates,
            discordance=share,
            correlation=assume.correlation,
            alpha=assume.alpha,
            power=assume.power,
        )
        found.append(one.to_dict())
    return found


def _own_folder(manifest: Mapping[str, Any]) -> Path:
    """A folder by what the run is, so that the same command finds it again."""
    data = manifest["data"]
    settings = {key: value for key, value in manifest["settings"].items() if key not in FREE}
    settings["model"] = {key: value for key, value in settings["model"].items() if key not in FREE}
    settings.pop("limits", None)
    if settings.get("order") == "seed":
        del settings["order"]  # the default
    what = [settings, data["sha256"], data["problems_sha256"], manifest["prompts"]["sha256"]]
    text = orjson.dumps(what, option=orjson.OPT_SORT_KEYS)
    return Path("runs") / f"{manifest['name']}-{hashlib.sha256(text).hexdigest()[:8]}"


# --- the run -----------------------------------------------------------------------------------------


def opened(ready: Prepared) -> tuple[Run, list[str]]:
    """The run in ``ready.out``, new or gone on with; and what is to be said of it, in sentences.

    Raises:
        UsageError: the folder holds another run; what differs is named.
        JournalError: it can't be written, or is being written.
    """
    if not (ready.out / JOURNAL_NAME).exists():
        run = Run.create(ready.out, ready.config, ready.source.same_problems(ready.survey.sha256))
        _write_files(run)
        return run, []
    run = Run.open(ready.out)
    try:
        said = _go_on(run, ready)
    except BaseException:
        run.close()
        raise
    return run, said


def _go_on(run: Run, ready: Prepared) -> list[str]:
    kept = run.config.benchmark
    if not kept:
        raise UsageError(f"{run.folder}: holds a run of another command; choose another folder (--out)")
    differing = differences(kept, ready.manifest)
    if differing:
        raise UsageError(
            f"{run.folder}: holds a benchmark run with other settings or data, so this can't go on with it:\n"
            + "".join(f"  {line}\n" for line in differing)
            + "Choose another folder (--out); or go on with the run as it was begun: "
            f"heartloop resume {run.folder}"
        )
    said = []
    went_on = kept.get("went_on", [])
    had, have = (went_on[-1] if went_on else kept).get("versions", {}), versions()
    if had != have:
        changed = sorted(name for name in {*had, *have} if had.get(name) != have.get(name))
        words = ", ".join(f"{n} {had.get(n, 'none'):.20} -> {have.get(n, 'none'):.20}" for n in changed)
        said.append(f"other versions than when the run was last worked on: {words}")
    # What may change is from now on as it was asked for now.
    now = {name: ready.manifest[name] for name in ("settings", "order", "flags", "limits", "run_file")}
    if had != have or any(kept.get(name) != value for name, value in now.items()):
        entry = {"command": ready.manifest["command"], "versions": have}
        kept = {**kept, **now, "went_on": [*went_on, entry]}
    config = replace(
        run.config,
        models=ready.config.models,
        budget=ready.config.budget,
        arm_budget=ready.config.arm_budget,
        scheduler=ready.config.scheduler,
        retries=ready.config.retries,
        active=ready.config.active,
        benchmark=kept,
    )
    # A kill between the journal's making and its problems' leaves it without any.
    missing = run.journal.count_problems() == 0
    problems = ready.source.same_problems(ready.survey.sha256) if missing else ()
    run.extend(config, problems)
    _write_files(run)
    return said


def _write_files(run: Run) -> None:
    import tomli_w

    manifest = run.config.benchmark
    settings = {key: value for key, value in manifest["settings"].items() if key != "out"}
    head = (
        "# Everything that this run was made with. To repeat it:\n"
        f"#   heartloop bench --config {RUN_FILE_NAME} --out ANOTHER_FOLDER\n"
    )
    text = orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n"
    for name, content in (
        (RUN_FILE_NAME, (head + tomli_w.dumps(settings, multiline_strings=False)).encode()),
        (MANIFEST_NAME, text),
    ):
        path = run.folder / name
        try:
            if path.exists() and path.read_bytes() == content:
                continue
            part = path.with_suffix(path.suffix + ".part")
            part.write_bytes(content)
            os.replace(part, path)
        except OSError as error:
            raise JournalError(f"{path}: can't be written: {error.strerror or error}") from error


# --- resume by folder --------------------------------------------------------------------------------


def kept_tables(folder: Path) -> tuple[dict[str, Any], Path | None]:
    """The tables that the benchmark run in ``folder`` was made from, as if its command were given again; and
    its run file, where it had one that is still there (else what was kept of it is taken).

    Raises:
        UsageError: there is no benchmark run in ``folder``, or its run file can't be read any more.
    """
    with JournalReader(journal_in(folder)) as journal:
        config = RunConfig.from_dict(journal.meta.get("config", {}))
    kept = config.benchmark
    if "settings" not in kept:
        raise UsageError(
            f"{folder}: no run of `heartloop bench`; go on with it by: heartloop resume {folder}"
        )
    source = kept.get("run_file")
    path = None if source is None else Path(source["path"])
    if path is None or not path.exists():
        path, tables = None, dict(kept["settings"])
    else:
        tables = layered(read_run_file(path), kept.get("flags", {}))
    # The limits are those that the run has now: `heartloop resume` may have raised them.
    limits = {name: limit for name, limit in asdict(config.budget).items() if limit is not None}
    if "grading" in tables.get("limits", {}):
        limits["grading"] = tables["limits"]["grading"]
    return {**tables, "limits": limits, "out": str(folder)}, path


def kept_flags(folder: Path) -> dict[str, Any]:
    """What the command line of the run in ``folder`` laid over its run file."""
    with JournalReader(journal_in(folder)) as journal:
        return dict(RunConfig.from_dict(journal.meta.get("config", {})).benchmark.get("flags", {}))


def opened_without_data(file: RunFile) -> Run:
    """The run in ``file.out`` whose data are gone: the journal has its problems."""
    run = Run.open(file.out or "")
    try:
        models = {"generator": file.model.config()}
        models |= {role: model.config() for role, model in file.models.items()}
        if models.keys() != run.config.models.keys():
            raise UsageError(f"{run.folder}: the models' roles can't be changed; start a new run")
        run.extend(replace(run.config, models=models, retries=file.retries, active=file.active))
    except BaseException:
        run.close()
        raise
    return run
