"""A vLLM server on virtual time: one processor for a batch, a queue before it, a prefix cache in blocks."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from heartloop.backends.base import bytes_bound
from heartloop.backends.vllm_metrics import VllmMetrics
from heartloop.errors import ConnectionFailed, ConnectionLost
from heartloop.types import Completion, Message, Request, Usage, text_of

__all__ = ["SimulatedVllm"]


class SimulatedVllm:
    """Words are tokens. An answer has ``max_tokens`` of them.

    Args:
        prefill, decode: tokens a second. Prompts have the processor for themselves, one after the other; in
            between, the batch shares it for decoding.
        batch: calls at once; the rest wait.
        full: the batch that decodes at full speed; a smaller one at its share of it.
        cache_tokens: what the prefix cache holds, in blocks of ``block`` tokens.
        says_cached: whether the usage tells what came from the cache.
    """

    real = False
    max_concurrency = None
    context_tokens = None

    def __init__(
        self,
        *,
        prefill: float = 4000.0,
        decode: float = 1000.0,
        batch: int = 16,
        full: int = 8,
        block: int = 16,
        cache_tokens: int = 500_000,
        says_cached: bool = True,
    ) -> None:
        self.name = "sim"
        self.prefill, self.decode, self.batch, self.full = prefill, decode, batch, full
        self.block, self.blocks, self.says_cached = block, cache_tokens // block, says_cached
        self.up = True
        self.hits = self.queries = self.answered = self.peak_waiting = 0
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._running: dict[asyncio.Future[None], list[float]] = {}  # seconds of prefill and of decoding left
        self._waiting: OrderedDict[asyncio.Future[None], tuple[tuple[str, ...], int]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    # --- a backend -------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Completion:
        await asyncio.sleep(0.001)
        if not self.up:
            raise ConnectionFailed("nothing listens")
        words = _words(request.messages)
        wanted = request.sampling.max_tokens
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cached = self._lookup(words, store=False)
        self._waiting[done] = (words, wanted)
        self._advance()
        try:
            await done
        except asyncio.CancelledError:
            self._running.pop(done, None)
            self._waiting.pop(done, None)
            self._advance()
            raise
        self.answered += 1
        text = " ".join([f"word{len(words)}"] * wanted)
        usage = Usage(len(words), wanted, cached_tokens=cached if self.says_cached else 0)
        return Completion(text, "length", usage, self.name)

    async def probe(self) -> None:
        await asyncio.sleep(0.001)
        if not self.up:
            raise ConnectionFailed("nothing listens")

    async def metrics(self) -> VllmMetrics:
        await self.probe()
        return VllmMetrics(
            running=len(self._running),
            waiting=len(self._waiting),
            prefix_queries=self.queries,
            prefix_hits=self.hits,
            prompt_tokens=self.queries,
            cache_tokens=self.blocks * self.block,
        )

    def prompt_tokens_bound(self, messages: tuple[Message, ...]) -> int:
        return bytes_bound(messages)

    async def aclose(self) -> None: ...

    def kill(self) -> None:
        """As kill -9: everything in it is gone."""
        self.up = False
        self._cache.clear()
        for done in (*self._running, *self._waiting):
            if not done.done():
                done.set_exception(ConnectionLost("killed"))
        self._running.clear()
        self._waiting.clear()

    # --- the engine ------------------------------------------------------------------------------

    def _advance(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._work(now - self._at)
        self._at = now
        while self._waiting and len(self._running) < self.batch:
            done, (words, wanted) = self._waiting.popitem(last=False)
            fresh = len(words) - self._lookup(words, store=True)
            self._running[done] = [fresh / self.prefill, wanted / self.decode]
        self.peak_waiting = max(self.peak_waiting, len(self._waiting))
        if self._timer is not None:
            self._timer.cancel()
        if self._running:
            self._timer = loop.call_later(self._next_event(), self._advance)

    def _prefilling(self) -> list[float] | None:
        return next((left for left in self._running.values() if left[0] > 1e-9), None)

    def _share(self) -> float:
        return min(1.0, len(self._running) / self.full) / len(self._running)

    def _next_event(self) -> float:
        first = self._prefilling()
        return (
            first[0] if first is not None else min(left[1] for left in self._running.values()) / self._share()
        )

    def _work(self, seconds: float) -> None:
        if not self._running:
            return
        first = self._prefilling()
        if first is not None:
            first[0] -= seconds
            return
        share = self._share()
        for done, left in list(self._running.items()):
            left[1] -= seconds * share
            if left[1] <= 1e-9:
                del self._running[done]
                if not done.done():
                    done.set_result(None)

    def _lookup(self, words: tuple[str, ...], *, store: bool) -> int:
        """Cached tokens at the beginning of ``words``; ``store`` counts it and puts them all in."""
        blocks, rolling = [], 0
        for start in range(0, len(words) - self.block + 1, self.block):
            rolling = hash((rolling, words[start : start + self.block]))
            blocks.append(rolling)
        found = 0
        for block in blocks:
            if block not in self._cache:
                break
            found += 1
        if store:
            self.queries += len(words)
            self.hits += found * self.block
            for block in reversed(blocks):
                self._cache.pop(block, None)
                self._cache[block] = None
            while len(self._cache) > self.blocks:
                self._cache.popitem(last=False)
        return found * self.block


def _words(messages: tuple[Message, ...]) -> tuple[str, ...]:
    return tuple(word for m in messages for word in (f"<{m.role}>", *text_of(m.content).split()))
