"""Stands in for the package ``vllm``: as much of ``LLM.chat`` and its parameters as VllmOffline uses.

Answers are the fault server's. :func:`install` puts it where ``import vllm`` finds it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.fault_server import FaultServer, _hash

__all__ = ["CONTEXT", "LLM", "SamplingParams", "install"]

CONTEXT = 4096


@dataclass
class Structure:
    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    whitespace_pattern: str | None = None


@dataclass
class SamplingParams:
    """vLLM's from 0.12 on; older ones have ``guided_decoding`` (``install(old=True)``)."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    structured_outputs: Structure | None = None
    guided_decoding: Structure | None = None


class LLM:
    """Remembers in ``asked`` with what parameters it was asked. One that says "abort" is broken off."""

    def __init__(self, model: str = "test-model", **engine_args: Any) -> None:
        self.model_config = SimpleNamespace(max_model_len=CONTEXT)
        self.asked: list[SamplingParams] = []
        self._server = FaultServer()

    def chat(
        self, messages: list[Any], parameters: list[SamplingParams], *, use_tqdm: bool = True
    ) -> list[Any]:
        self.asked += parameters
        return [self._answer(*asked) for asked in zip(messages, parameters, strict=True)]

    def _answer(self, messages: list[dict[str, Any]], parameters: SamplingParams) -> Any:
        body = {"model": "test-model", "messages": messages, "max_tokens": parameters.max_tokens}
        answer = self._server._answer("ok", body, _hash(body))
        choice = answer["choices"][0]
        words = choice["message"]["content"].split()
        guided = parameters.structured_outputs or parameters.guided_decoding
        text = guided.choice[0] if guided and guided.choice else choice["message"]["content"]
        ended = "abort" if "abort" in str(messages) else choice["finish_reason"]
        output = SimpleNamespace(
            text=text, token_ids=[*range(len(words))], finish_reason=ended, logprobs=None
        )
        prompt = [*range(max(1, answer["usage"]["prompt_tokens"]))]
        rows = None
        if parameters.prompt_logprobs is not None:
            rows = [None, *({n: SimpleNamespace(logprob=-1.0, decoded_token=f"t{n}")} for n in prompt[1:])]
        return SimpleNamespace(outputs=[output], prompt_token_ids=prompt, prompt_logprobs=rows)


def install(patch: pytest.MonkeyPatch, *, old: bool = False) -> None:
    """``old``: as before 0.10.2, with ``guided_decoding``."""
    module = ModuleType("vllm")
    parameters = ModuleType("vllm.sampling_params")
    setattr(parameters, "GuidedDecodingParams" if old else "StructuredOutputsParams", Structure)
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "vllm", module)
    patch.setitem(sys.modules, "vllm.sampling_params", parameters)
