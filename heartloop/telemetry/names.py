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

__all__ = [
    "DURATION_BUCKETS",
    "SCHEMA_URL",
    "TOKEN_BUCKETS",
    "answered",
    "asked",
    "common_of",
    "provider_of",
    "said_by",
]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"
"""Of the conventions that the names are from."""

TOKEN_BUCKETS = [4**power for power in range(14)]
DURATION_BUCKETS = [0.01 * 2**power for power in range(14)]

_PROVIDERS = {
    "AzureOpenAIBackend": "azure.ai.openai",
    "BatchBackend": "openai",
    "LlamaCppBackend": "llama.cpp",
    "OpenAIBackend": "openai",
    "ReplicaSet": "vllm",
    "ScoringBackend": "vllm",
    "VllmBackend": "vllm",
    "VllmOffline": "vllm",
    "VllmRunBatch": "vllm",
}
_OF_LITELLM = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""Where the conventions have another word than DSPy and LiteLLM."""


def provider_of(backend: Backend) -> str:
    """``gen_ai.provider.name``: the conventions' value where they have one, else a word of the same kind."""
    kind = type(backend).__name__
    if kind == "DspyBackend":
        family, slash, _ = backend.name.partition("/")
        return _OF_LITELLM.get(family, family) if slash else "openai"
    return _PROVIDERS.get(kind, kind.removesuffix("Backend").lower())


def common_of(backend: Backend, model: str, *, batched: bool = False) -> dict[str, Any]:
    """Attributes that a call's span and its metrics share, and all calls of a model at a backend."""
    common: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider_of(backend),
        "gen_ai.request.model": model,
        **_server(backend),
    }
    if batched:
        common["heartloop.batched"] = True  # its times are no measure of other calls'
    return common


def asked(request: Request, backend: Backend) -> dict[str, Any]:
    """Attributes of a call's span that are known when it is sent."""
    s = request.sampling
    said: dict[str, Any] = {"gen_ai.request.max_tokens": s.max_tokens}
    if s.temperature is not None:
        said["gen_ai.request.temperature"] = s.temperature
    if s.top_p is not None:
        said["gen_ai.request.top_p"] = s.top_p
    if s.seed is not None:
        said["gen_ai.request.seed"] = s.seed
    if s.stop:
        said["gen_ai.request.stop_sequences"] = s.stop
    if s.cut is not None:
        said["gen_ai.request.stream"] = True
    if s.extra:
        for name in ("top_k", "frequency_penalty", "presence_penalty"):
            value = s.extra.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                said[f"gen_ai.request.{name}"] = value
        form = s.extra.get("response_format")
        if isinstance(form, Mapping) and str(form.get("type", "")).startswith("json"):
            said["gen_ai.output.type"] = "json"
    return said


def said_by(request: Request) -> str:
    """``gen_ai.input.messages``."""
    turns = [
        {"role": m.role, "parts": [{"type": "text", "content": text_of(m.content)}]} for m in request.messages
    ]
    return json.dumps(turns, ensure_ascii=False)


def answered(completion: Completion, *, content: bool) -> Mapping[str, Any]:
    """Attributes of a call's span that its answer brought."""
    said: dict[str, Any] = {"gen_ai.response.finish_reasons": [completion.finish_reason]}
    if completion.model:
        said["gen_ai.response.model"] = completion.model
    if completion.first_chunk is not None:
        said["gen_ai.response.time_to_first_chunk"] = completion.first_chunk
    if (usage := completion.usage) is not None:
        said["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        said["gen_ai.usage.output_tokens"] = usage.completion_tokens
        if usage.cached_tokens:
            said["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
        if usage.reasoning_tokens:
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
