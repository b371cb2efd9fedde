"""What vLLM's ``/metrics`` says of its queue and its prefix cache, read without a Prometheus client.

Names as in vLLM's documentation (docs.vllm.ai/en/latest/usage/metrics.html). Older versions spell the
cache's with ``gpu_`` in front (``vllm:gpu_cache_usage_perc``, ``vllm:gpu_prefix_cache_hits_total``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["VllmMetrics"]

# A page has a thousand lines, most of them histograms' buckets: one pass of one pattern, no splitting.
_LINE = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|(?:gpu_|kv_)cache_usage_perc"
    rb"|(?:gpu_)?prefix_cache_(?:queries|hits)(?:_total)?|num_preemptions(?:_total)?"
    rb"|prompt_tokens_total|generation_tokens_total)(?:\{[^\n]*\})?[ \t]+(\S+)",
    re.MULTILINE,
)
_CONFIG = re.compile(rb"^vllm:cache_config_info\{([^\n]*)\}", re.MULTILINE)
_BLOCKS = re.compile(rb'\b(block_size|num_gpu_blocks)="(\d+)"')


@dataclass(frozen=True, slots=True)
class VllmMetrics:
    """One look at a server; with several engines behind it (data parallel) their sum.

    Attributes:
        running, waiting: requests in the batch, and in the queue before it.
        kv_cache_usage: share of the KV cache in use, 0 to 1; of the fullest engine.
        prefix_queries, prefix_hits: prompt tokens looked up in the prefix cache and found there, since
            the start.
        prompt_tokens, generation_tokens: since the start; cached prompt tokens count.
        preemptions: requests put back into the queue for want of KV cache, since the start.
        cache_tokens: tokens that the KV cache holds; None where the server does not say.
    """

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    cache_tokens: int | None = None

    @classmethod
    def parse(cls, page: bytes) -> VllmMetrics:
        """From the text of ``/metrics``; what is not there is 0."""
        sums = dict.fromkeys(_FIELDS.values(), 0.0)
        for name, number in _LINE.findall(page):
            try:
                value = float(number)
            except ValueError:
                continue
            if not 0 <= value < 2**53:  # NaN too
                continue
            field = _FIELDS[name.decode().removeprefix("gpu_").removeprefix("kv_").removesuffix("_total")]
            sums[field] = max(sums[field], value) if field == "kv_cache_usage" else sums[field] + value
        usage = sums.pop("kv_cache_usage")
        counts = {field: int(value) for field, value in sums.items()}
        return cls(kv_cache_usage=usage, cache_tokens=_cache_tokens(page), **counts)

    def __add__(self, other: VllmMetrics) -> VllmMetrics:
        """Two servers seen as one."""
        known = [tokens for tokens in (self.cache_tokens, other.cache_tokens) if tokens is not None]
        return VllmMetrics(
            self.running + other.running,
            self.waiting + other.waiting,
            max(self.kv_cache_usage, other.kv_cache_usage),
            self.prefix_queries + other.prefix_queries,
            self.prefix_hits + other.prefix_hits,
            self.prompt_tokens + other.prompt_tokens,
            self.generation_tokens + other.generation_tokens,
            self.preemptions + other.preemptions,
            sum(known) if known else None,
        )


_FIELDS = {
    "num_requests_running": "running",
    "num_requests_waiting": "waiting",
    "cache_usage_perc": "kv_cache_usage",
    "prefix_cache_queries": "prefix_queries",
    "prefix_cache_hits": "prefix_hits",
    "prompt_tokens": "prompt_tokens",
    "generation_tokens": "generation_tokens",
    "num_preemptions": "preemptions",
}


def _cache_tokens(page: bytes) -> int | None:
    total = 0
    for labels in _CONFIG.findall(page):
        sizes = {name: int(value) for name, value in _BLOCKS.findall(labels)}
        total += sizes.get(b"block_size", 0) * sizes.get(b"num_gpu_blocks", 0)
    return total or None
