"""Requests and completions in the words of the semantic conventions for generative AI.

Attributes and their values: opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai; buckets:
opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics. Plain strings, nothing of OpenTelemetry's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from heartloop.backends.base import Backend
from heartloop.types import Completion, Request, text_of

__all__ = ["DURATION_BUCKETS", "TOKEN_BUCKETS", "answered", "asked", "provider_of"]

TOKEN_BUCKETS = [4**power for power in range(14)]
DURATION_BUCKETS = [0.01 * 2**power for power in range(14)]

_PROVIDERS = {
    "AzureOpenAIBackend": "azure.ai.openai",
    "LlamaCppBackend": "llama.cpp",
    "OpenAIBackend": "openai",
    "ReplicaSet": "vllm",
    "VllmBackend": "vllm",
}
_OF_LITELLM = {"gemini": "gcp.gemini", "vertex_ai": "gcp.vertex_ai", "bedrock": "aws.bedrock", "xai": "x_ai"}
"""Where the conventions have another word than DSPy and LiteLLM."""


def provider_of(backend: Backend) -> str:
    """``gen_ai.provider.name``: the conventions' value where they have one, else a word of the same kind."""
    kind = type(backend).__name__
    if kind == "DspyBackend":
        family, slash, _ = backend.name.partition("/")
        return _OF_LITELLM.get(family, family) if slash else "openai"
    return _PROVIDERS.get(kind, kind.removesuffix("Backend").lower())


def asked(request: Request, backend: Backend, *, content: bool) -> Mapping[str, Any]:
    """Attributes of a call's span that are known when it is sent."""
    s = request.sampling
    said: dict[str, Any] = {"gen_ai.request.max_tokens": s.max_tokens}
    for name, value in (
        ("temperature", s.temperature),
        ("top_p", s.top_p),
        ("seed", s.seed),
        ("stop_sequences", s.stop or None),
    ):
        if value is not None:
            said[f"gen_ai.request.{name}"] = value
    said.update(_server(backend))
    if content:
        turns = [
            {"role": m.role, "parts": [{"type": "text", "content": text_of(m.content)}]}
            for m in request.messages
        ]
        said["gen_ai.input.messages"] = json.dumps(turns, ensure_ascii=False)
    return said


def answered(completion: Completion, *, content: bool) -> Mapping[str, Any]:
    """Attributes of a call's span that its answer brought."""
    said: dict[str, Any] = {"gen_ai.response.finish_reasons": [completion.finish_reason]}
    if completion.model:
        said["gen_ai.response.model"] = completion.model
    if (usage := completion.usage) is not None:
        said["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        said["gen_ai.usage.output_tokens"] = usage.completion_tokens
        said["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
        said["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    if content:
        parts = [{"type": "text", "content": completion.text}]
        if completion.reasoning:
            parts.insert(0, {"type": "reasoning", "content": completion.reasoning})
        turn = {"role": "assistant", "parts": parts, "finish_reason": completion.finish_reason}
        said["gen_ai.output.messages"] = json.dumps([turn], ensure_ascii=False)
    return said


def _server(backend: Backend) -> Mapping[str, Any]:
    address = getattr(backend, "address", None)
    if address is None:
        return {}
    parts = urlsplit(address.shown)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}
