"""Worker processes that are killed when a case runs past its deadline.

A worker is a plain subprocess (``python -m``-like, no fork, no pickle, no re-import of ``__main__``)
that reads one JSON line of cases and writes one JSON line a verdict. Each worker is owned by one
daemon thread of the pool, which takes cases from a shared queue in batches, watches the clock of
the case at hand, and kills and replaces the worker that oversteps it: the case at hand is answered
"unknown", the others of its batch go back to the queue. Callers only wait on futures, so any thread and any
event loop can use the pool; no signal, timer or handler of the calling process is touched.

A worker ends when its standard input closes, which the kernel does even where the parent was
killed with ``kill -9``; its own timer (see :mod:`.worker`) ends it should it be stuck then.
"""

from __future__ import annotations

import atexit
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson

__all__ = ["Pool", "shared_pool"]

Reply = dict[str, Any]

_BATCH = 64
_LOADING_SECONDS = 60.0  # importing sympy on a busy machine; does not count as the case's time
_START_SECONDS = 60.0
_BOOTSTRAP = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from heartloop_verifiers.worker import main; main(int(sys.argv[2]))"
)


@dataclass(slots=True)
class _Job:
    payload: dict[str, Any]
    timeout: float
    future: Future[Reply] = field(default_factory=Future)


class _Killed(Exception):
    """The worker is gone; says why."""


class _Worker:
    """One subprocess and the pipe to it. Used by one thread."""

    def __init__(self, memory_mb: int) -> None:
        paths = [os.path.abspath(p) if p else os.getcwd() for p in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOTSTRAP, orjson.dumps(paths).decode(), str(memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._buffer = b""
        self._memory_mb = memory_mb
        if self.read(_START_SECONDS) != {"ready": True}:
            raise _Killed("the worker process did not start")

    def send(self, payloads: list[dict[str, Any]]) -> None:
        assert self.process.stdin is not None
        data = memoryview(orjson.dumps(payloads) + b"\n")
        try:
            while data:
                data = data[self.process.stdin.write(data) :]
        except OSError as error:
            self.kill()
            raise _Killed("the worker process died") from error

    def read(self, timeout: float) -> Reply:
        """The next reply; kills the worker when none comes within ``timeout`` seconds."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLHUP)
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000 + 1):
                if left > 0 and end - time.monotonic() > 0:
                    continue
                self.kill()
                raise TimeoutError
            chunk = os.read(fd, 1 << 18)
            if not chunk:
                self.kill()
                raise _Killed(f"the worker process died (memory limit {self._memory_mb} MiB, or a crash)")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply = orjson.loads(line)
        if reply.get("loading"):
            return self.read_loaded(timeout)
        assert isinstance(reply, dict)
        return reply

    def read_loaded(self, timeout: float) -> Reply:
        """The worker imports a heavy library: wait for that, then start the case's clock anew."""
        self.read(_LOADING_SECONDS)
        return self.read(timeout)

    def kill(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass
        self.process.wait()


class Pool:
    """A queue of cases and up to ``workers`` processes that answer them.

    Args:
        workers: processes at most; they start when there is work for them.
        memory_mb: address space of each, in MiB.
    """

    def __init__(self, workers: int | None = None, *, memory_mb: int = 1024) -> None:
        self.workers = workers or usable_cpus()
        self.memory_mb = memory_mb
        self._queue: deque[_Job] = deque()
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._alive: set[_Worker] = set()
        self._idle = 0
        self._closed = False

    def submit(self, payloads: Iterable[dict[str, Any]], timeout: float) -> list[Future[Reply]]:
        """Queue cases; each future resolves to the worker's reply and never raises by itself.

        ``timeout`` is each case's own time in seconds, from the moment a worker turns to it.
        """
        jobs = [_Job(payload, timeout) for payload in payloads]
        with self._condition:
            if self._closed:
                raise RuntimeError("the pool of verifiers is closed")
            self._queue.extend(jobs)
            while len(self._threads) < self.workers and len(self._queue) > self._idle:
                thread = threading.Thread(target=self._serve, name="heartloop-verifier", daemon=True)
                self._threads.append(thread)
                self._idle += 1  # it will take from the queue as soon as it runs
                thread.start()
            self._condition.notify(len(jobs))
        return [job.future for job in jobs]

    def close(self) -> None:
        """Kill the workers; what is still queued is answered "unknown"."""
        with self._condition:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._condition.notify_all()
            alive = list(self._alive)
        for job in waiting:
            _settle(job, _unknown("the pool was closed"))
        for worker in alive:
            worker.process.kill()

    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        with self._condition:
            return [worker.process.pid for worker in self._alive]

    def _serve(self) -> None:
        worker: _Worker | None = None
        while True:
            with self._condition:
                while not self._queue and not self._closed:
                    self._condition.wait()
                if self._closed:
                    break
                self._idle -= 1
                size = max(1, min(_BATCH, len(self._queue) // len(self._threads)))
                batch = [self._queue.popleft() for _ in range(size)]
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            try:
                worker = self._run(worker, batch)
            except Exception as error:  # nothing may end this thread: callers wait on its futures
                worker = None
                for job in batch:
                    _settle(job, _unknown(f"the verifier failed: {type(error).__name__}: {error}"))
            with self._condition:
                self._idle += 1
        if worker is not None:
            worker.kill()

    def _start(self) -> _Worker:
        worker = _Worker(self.memory_mb)
        with self._condition:
            self._alive.add(worker)
        return worker

    def _run(self, worker: _Worker | None, batch: list[_Job]) -> _Worker | None:
        """Answer every job of the batch; returns the worker that is left, if any."""
        waiting = deque(batch)
        while waiting:
            reason = ""
            try:
                if worker is None:
                    worker = self._start()
                worker.send([job.payload | {"timeout": job.timeout} for job in waiting])
                while waiting:
                    reply = worker.read(waiting[0].timeout)
                    _settle(waiting.popleft(), reply)
                    if reply.get("restart"):  # answered, but not to be trusted any more
                        worker.kill()
                        raise _Killed("restarted")
                continue
            except TimeoutError:
                reason = f"no verdict within {waiting[0].timeout:g} s; the worker was killed"
            except _Killed as error:
                reason = str(error)
            if worker is not None:
                with self._condition:
                    self._alive.discard(worker)
                worker = None
            if waiting and reason != "restarted":
                _settle(waiting.popleft(), _unknown(reason))
        return worker


def usable_cpus() -> int:
    """CPUs this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _unknown(reason: str) -> Reply:
    return {"correct": None, "method": "killed", "reason": reason}


def _settle(job: _Job, reply: Reply) -> None:
    if not job.future.done() and (job.future.running() or job.future.set_running_or_notify_cancel()):
        job.future.set_result(reply)


_shared: Pool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> Pool:
    """The process's pool, made at first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Pool()
            atexit.register(_shared.close)
        return _shared


def _after_fork() -> None:
    # the child has none of the pool's threads, and the workers belong to the parent
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
