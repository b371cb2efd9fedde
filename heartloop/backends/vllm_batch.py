"""vLLM offline, by files: ``vllm run-batch`` over OpenAI's batch format.

A wave is a folder: ``in.jsonl``, the command, its log, ``out.jsonl`` when it is done, and ``exit`` with the
command's status. The command runs in a process of its own that outlives this one (kill -9 included) and is
found again by the lock that it holds. Without a command the files are left for the user to run.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from heartloop.backends.base import bytes_bound
from heartloop.backends.batch_lines import line_of, outcome_in
from heartloop.backends.guided import under_both_names
from heartloop.backends.waves import Note, Outcome, WaveLine, WaveLook, complete_alone
from heartloop.backends.wire import request_body
from heartloop.errors import BackendUnreachable, BadResponse, UsageError
from heartloop.types import Completion, Message, Request

__all__ = ["DEFAULT_COMMAND", "VllmRunBatch"]

logger = logging.getLogger(__name__)

DEFAULT_COMMAND = "vllm run-batch -i {input} -o {output} --model {model}"
MOST_STARTS = 3
"""How often a command is started again that was killed before it could say how it ended."""
_TAIL = 2000
_PLACE = re.compile(r"\{(input|output|model)\}")


class VllmRunBatch:
    """A model run by ``vllm run-batch``, one run for each wave.

    Args:
        name: the model as vLLM loads it: a folder, or a name of the Hugging Face hub.
        command: what to run, with ``{input}``, ``{output}`` and ``{model}`` in the places of the files and
            the name; split as a shell would, but no shell is used. Flags of vLLM go here. "": nothing is run;
            the wave waits until the user has made the output file.
        folder: where the waves' folders are made.
        context_tokens: the model's context length, if known.

    Raises:
        UsageError: a command without the places.
    """

    real: bool = True
    max_concurrency: int | None = None
    batch_priced = False

    def __init__(
        self,
        name: str,
        *,
        command: str | None = None,
        folder: str | Path = "heartloop-waves",
        context_tokens: int | None = None,
        wave_calls: int = 50_000,
        wave_bytes: int = 1_000_000_000,
        poll_seconds: tuple[float, float] = (0.5, 10.0),
        api_key_env: str | None = None,
    ) -> None:
        if not name:
            raise UsageError("the model's name is empty: vllm-batch/MODEL, as vLLM's --model takes it")
        command = DEFAULT_COMMAND if command is None else command
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"the batch command can't be read: {error}") from None
        if self._command and not all(f"{{{place}}}" in command for place in ("input", "output")):
            raise UsageError(f"the batch command needs {{input}} and {{output}}, as in: {DEFAULT_COMMAND}")
        self.name = name
        self.context_tokens = context_tokens
        self.wave_calls = wave_calls
        self.wave_bytes = wave_bytes
        self.poll_seconds = poll_seconds
        self._folder = Path(folder)
        self._runners: dict[str, subprocess.Popen[bytes]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, folder={str(self._folder)!r})"

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return bytes_bound(messages)

    async def complete(self, request: Request) -> Completion:
        """A wave of one: a whole start of vLLM. See :class:`~heartloop.backends.base.Backend`."""
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        return await complete_alone(self, request, self._leaving)

    # --- a wave ---------------------------------------------------------------------------------------------

    def wave_line(self, id: str, request: Request) -> bytes:
        return line_of(id, under_both_names(request_body(request)))

    async def submit(self, wave: str, lines: Sequence[WaveLine], note: Note) -> str:
        await asyncio.to_thread(self._write, wave, [line.line for line in lines])
        if self._command:
            await asyncio.to_thread(self._start, wave)
        else:
            places = self._places(wave)
            shown = DEFAULT_COMMAND.format_map({name: shlex.quote(value) for name, value in places.items()})
            logger.warning("%d calls wait for %s; run: %s", len(lines), places["output"], shown)
        return wave

    async def find(self, wave: str, noted: Mapping[str, Any]) -> str | None:
        return wave if (self._folder / wave / "in.jsonl").exists() else None

    async def look(self, ref: str) -> WaveLook:
        return await asyncio.to_thread(self._look, ref)

    async def results(self, ref: str) -> AsyncIterator[tuple[str, Outcome]]:
        path = self._folder / ref / "out.jsonl"
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except OSError:
            return
        for line in content.split(b"\n"):
            if not line.strip():
                continue
            try:
                yield outcome_in(line, where=f"vLLM (model {self.name!r})", redact=lambda text: text)
            except BadResponse as error:
                logger.warning("%s: a line can't be read (%s)", path, error)

    async def cancel(self, ref: str) -> None:
        place = self._folder / ref
        if not place.is_dir():
            return
        (place / "cancelled").touch()
        try:
            group = int((place / "pid").read_text())
        except (OSError, ValueError):
            return
        if _locked(place):  # else the number may be another process's by now
            os.killpg(group, signal.SIGTERM)

    async def aclose(self) -> None:
        """Let go; a command that runs goes on."""
        self._closed = True
        if self._leaving:
            await asyncio.wait(list(self._leaving), timeout=5.0)
        self._runners.clear()

    # --- files ----------------------------------------------------------------------------------------------

    def _places(self, wave: str) -> dict[str, str]:
        place = (self._folder / wave).resolve()
        return {"input": str(place / "in.jsonl"), "output": str(place / "out.jsonl"), "model": self.name}

    def _write(self, wave: str, lines: Sequence[bytes]) -> None:
        place = self._folder / wave
        if (place / "in.jsonl").exists():
            return
        try:
            place.mkdir(parents=True, exist_ok=True)
            with (place / "in.jsonl.part").open("wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.rename(place / "in.jsonl.part", place / "in.jsonl")
        except OSError as error:
            raise BackendUnreachable(f"can't write the batch's files in {place}: {error.strerror}") from None

    def _start(self, wave: str) -> None:
        try:
            self._run(wave)
        except OSError as error:
            place = self._folder / wave
            raise BackendUnreachable(f"can't run the batch in {place}: {error.strerror}") from None

    def _run(self, wave: str) -> None:
        """Start the command, unless it runs or has ended."""
        place = self._folder / wave
        if any((place / name).exists() for name in ("exit", "out.jsonl", "cancelled")) or _locked(place):
            return
        starts = place / "starts"
        try:
            count = int(starts.read_text()) + 1
        except (FileNotFoundError, ValueError):  # none yet, or a crash in the middle of writing it
            count = 1
        if count > MOST_STARTS:
            (place / "exit").write_text("-1")
            return
        starts.write_text(str(count))
        places = {**self._places(wave), "output": str(place.resolve() / "out.jsonl.part")}
        # Other braces are the command's own: flags of vLLM take JSON.
        command = [_PLACE.sub(lambda found: places[found[1]], word) for word in self._command]
        (place / "command.json").write_text(json.dumps(command))
        with (place / "lock").open("wb") as lock:
            # The lock goes along with the open file, so there is no moment in which nobody holds it.
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._runners[wave] = subprocess.Popen(
                [sys.executable, "-S", _RUNNER, str(place.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )

    def _look(self, wave: str) -> WaveLook:
        place = self._folder / wave
        if (runner := self._runners.get(wave)) is not None:
            runner.poll()  # or it stays a zombie
        done = (place / "out.jsonl").exists()
        if not self._command:
            return WaveLook(done and _lines_in(place / "out.jsonl") >= _lines_in(place / "in.jsonl"))
        try:
            status = int((place / "exit").read_text())
        except (OSError, ValueError):
            if done or _locked(place):
                return WaveLook(done)
            if (place / "cancelled").exists() or not (place / "in.jsonl").exists():
                return WaveLook(True, cut=True)
            self._start(wave)
            return WaveLook(False)
        if done or (place / "cancelled").exists():
            return WaveLook(True, cut=not done)
        said = _last_words(place / "log")
        return WaveLook(
            True,
            refused=BackendUnreachable(
                f"`{self._command[0]}` ended with status {status} and no output (log: {place / 'log'})"
                + (f": {said}" if said else "")
            ),
        )


_RUNNER = str(Path(__file__).with_name("run_command.py"))


def _locked(place: Path) -> bool:
    try:
        with (place / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def _lines_in(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(bool(line.strip()) for line in file)
    except OSError:
        return 0


def _last_words(path: Path) -> str:
    """The last line of a log that says something."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
