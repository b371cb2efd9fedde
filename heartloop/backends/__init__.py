"""Where completions come from. :func:`make_backend` turns a model's name into a backend."""

from __future__ import annotations

import os
from typing import Any

from heartloop.backends.azure import AzureOpenAIBackend, is_azure
from heartloop.backends.base import FORBID_ENV, Backend, bytes_bound, check_calls_allowed
from heartloop.backends.batch import BatchBackend
from heartloop.backends.dspy_lm import DspyBackend
from heartloop.backends.llamacpp import KNOWN_MODELS, LlamaCppBackend
from heartloop.backends.openai import OpenAIBackend
from heartloop.backends.replay import ReplayBackend
from heartloop.backends.replicas import ReplicaSet
from heartloop.backends.scoring import ScoringBackend, Task
from heartloop.backends.scripted import ScriptedBackend
from heartloop.backends.vllm import VllmBackend
from heartloop.backends.vllm_batch import VllmRunBatch
from heartloop.backends.vllm_offline import VllmOffline
from heartloop.errors import UnknownName, UsageError
from heartloop.types import Request, text_of

__all__ = [
    "FORBID_ENV",
    "AzureOpenAIBackend",
    "Backend",
    "BatchBackend",
    "DspyBackend",
    "LlamaCppBackend",
    "OpenAIBackend",
    "ReplayBackend",
    "ReplicaSet",
    "ScoringBackend",
    "ScriptedBackend",
    "VllmBackend",
    "VllmOffline",
    "VllmRunBatch",
    "bytes_bound",
    "check_calls_allowed",
    "make_backend",
]


_SCORING: dict[str, Task] = {
    "vllm-score": "score",
    "vllm-classify": "classify",
    "vllm-pooling": "pooling",
    "http-score": "json",
}


def make_backend(
    spec: str, *, base_url: str | None = None, api_key_env: str | None = None, **options: Any
) -> Backend:
    """The backend for a model's name, as it is given on the command line.

    ==========================  ==========================================================================
    ``spec``                    backend
    ==========================  ==========================================================================
    NAME, with ``base_url``     the OpenAI-compatible server there; NAME is sent as it is, slashes included
    ``vllm/NAME``               the vLLM server at ``base_url``; several URLs with commas in between are
                                replicas under one name
    ``local/smollm2-135m``      the embedded model
    ``local/PATH.gguf``         the embedded llama.cpp with that file
    ``dspy/PROVIDER/NAME``      ``dspy.LM("PROVIDER/NAME")``: what DSPy and LiteLLM reach
    ``scripted/echo``           no model: repeats the last message
    ``openai/NAME``             api.openai.com
    ``batch/NAME``              the Batch API at ``base_url``, else in OPENAI_BASE_URL, else of api.openai.com
    ``vllm-batch/MODEL``        ``vllm run-batch`` over files, here
    ``vllm-offline/MODEL``      a vLLM ``LLM`` in this process
    ``azure/DEPLOYMENT``        Azure OpenAI, at ``base_url`` or the variable AZURE_OPENAI_ENDPOINT; so is any
                                NAME whose base URL is a host of Azure's
    NAME                        the server in the variable OPENAI_BASE_URL, else api.openai.com
    ==========================  ==========================================================================

    Args:
        api_key_env: the environment variable with the key, instead of OPENAI_API_KEY or AZURE_OPENAI_API_KEY.
        options: further arguments of the backend's class.

    Raises:
        UsageError: no name, no key, not installed, ...
        UnknownName: no such local or scripted model; the known ones are listed.
    """
    if not spec.strip():
        raise UsageError("the model's name is empty")
    if api_key_env is not None:
        options["api_key_env"] = api_key_env
    family, slash, name = spec.partition("/")
    if slash and family == "vllm":
        return _vllm(name, base_url, options)
    if slash and family in _SCORING:
        if not name or not base_url:
            raise UsageError(
                f"a reward model needs its name and where it is served: {family}/NAME with a URL"
            )
        return ScoringBackend(name, base_url=base_url, task=_SCORING[family], **options)
    if slash and family == "azure":
        return AzureOpenAIBackend(name, base_url=base_url, **options)
    if slash and family == "dspy":
        return DspyBackend.named(name, base_url=base_url, **options)
    if slash and family in ("vllm-batch", "vllm-offline"):
        if base_url is not None:
            raise UsageError(f"{family}/MODEL runs vLLM here: it has no base_url")
        return (VllmRunBatch if family == "vllm-batch" else VllmOffline)(name, **options)
    if slash and family == "batch":
        url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        if url is not None and is_azure(url):
            raise UsageError("Azure's batches are not supported: its deployments are asked one by one")
        return BatchBackend(name, base_url=url, **options)
    if base_url is not None:
        return _openai(spec, base_url, options)
    if slash and family in ("local", "scripted"):
        options.pop("api_key_env", None)
    if slash and family == "local":
        if name.endswith(".gguf"):
            return LlamaCppBackend(os.path.basename(name), model_path=name, **options)
        if name not in KNOWN_MODELS:
            known = [f"local/{model}" for model in KNOWN_MODELS]
            raise UnknownName("local model", spec, [*known, "local/PATH.gguf"])
        return LlamaCppBackend(name, **options)
    if slash and family == "scripted":
        if name != "echo":
            raise UnknownName("scripted model", spec, ["scripted/echo"])
        return ScriptedBackend(_echo, name=spec, keep_requests=False, **options)
    if slash and family == "openai":
        return OpenAIBackend(name, **options)
    return _openai(spec, os.environ.get("OPENAI_BASE_URL") or None, options)


def _openai(name: str, base_url: str | None, options: dict[str, Any]) -> Backend:
    kind = AzureOpenAIBackend if base_url is not None and is_azure(base_url) else OpenAIBackend
    return kind(name, base_url=base_url, **options)


def _vllm(name: str, base_url: str | None, options: dict[str, Any]) -> Backend:
    urls = [url for part in (base_url or "").split(",") if (url := part.strip())]
    if not name or not urls:
        raise UsageError(
            "a vLLM model needs its name and where it is served: vllm/NAME with base_url "
            "http://HOST:PORT/v1 (several, with commas in between, for replicas)"
        )
    if len(set(urls)) < len(urls):
        raise UsageError("base_url names one replica twice")
    backends = [VllmBackend(name, base_url=url, **options) for url in urls]
    return backends[0] if len(backends) == 1 else ReplicaSet(backends)


def _echo(request: Request) -> str:
    return text_of(request.messages[-1].content) if request.messages else ""
