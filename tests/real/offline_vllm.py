"""vLLM in the process of HeartLoop: ``python offline_vllm.py SITE MODEL JOURNAL``, by the Python that has it.

SITE: the site-packages of HeartLoop's own environment, asked last, for what vLLM's has not. Prints one JSON
object.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import sys
from pathlib import Path
from typing import Any


async def ask(model: str, journal: Path) -> dict[str, Any]:
    from heartloop import Budget, HeartLoop, Model, Problem
    from heartloop.backends import VllmOffline
    from heartloop.types import Message, Request, Sampling

    engine = {"max_model_len": 512, "enforce_eager": True, "dtype": "bfloat16", "max_num_seqs": 16}
    backend = VllmOffline(model, poll_seconds=(0.05, 0.2), **engine)
    sampling = Sampling(max_tokens=24, temperature=0.7, logprobs=2, stop=("\n\n\n",))
    loop = HeartLoop(
        Model(model, backend=backend, sampling=sampling),
        strategy="resample",
        max_rounds=2,
        width=2,
        journal=journal,
        budget=Budget(tokens=200_000),
        verify=unknown,
        equivalent=same,
    )
    problems = [Problem(f"p{n}", f"What is {n} + {n}?") for n in range(6)]
    solutions = await loop.solve_many(problems)
    engine_of = loop._engine
    assert engine_of is not None
    account = engine_of.ledger.run
    long = Request(model, (Message("user", "word " * 2000),), Sampling(max_tokens=8))
    good = Request(model, (Message("user", "Hi"),), Sampling(max_tokens=8, extra={"top_k": 5}))
    odd = Request(model, (Message("user", "Hi"),), Sampling(max_tokens=8, extra={"no_such": 5}))
    rows = Request(model, good.messages, Sampling(max_tokens=2, extra={"prompt_logprobs": 1}))
    guided = {
        name: Request(model, good.messages, Sampling(max_tokens=8, extra=extra))
        for name, extra in (
            ("new name", {"structured_outputs": {"choice": ["red", "blue"]}}),
            ("old name", {"guided_choice": ["red", "blue"]}),
        )
    }
    alone: dict[str, Any] = {}
    asked = {"long": long, "good": good, "odd": odd, "rows": rows, **guided}
    for name, request in asked.items():
        try:
            answer = await backend.complete(request)
            alone[name] = {
                "text": answer.text,
                "prompt": answer.usage.prompt_tokens if answer.usage else None,
                "completion": answer.usage.completion_tokens if answer.usage else None,
                "rows": len(answer.prompt_logprobs or ()),
            }
        except Exception as error:
            alone[name] = {"error": type(error).__name__, "message": str(error)[:200]}
        print(name, alone[name], file=sys.stderr, flush=True)
    first = solutions[0].attempts[0]
    found = {
        "solved": [s.stop_reason.value for s in solutions],
        "attempts": [len(s.attempts) for s in solutions],
        "usage": first.usage.completion_tokens,
        "confirmed": [account.confirmed.tokens, account.confirmed.calls],
        "assumed": account.assumed.calls,
        "open": account.open.calls,
        "context": backend.context_tokens,
        "alone": alone,
    }
    await loop.aclose()
    return found


async def unknown(problem: Any, answer: str | None) -> Any:
    from heartloop.types import Verdict

    return Verdict(None, "none", "not asked")


async def same(a: str, b: str, kind: str) -> bool:
    return a == b


if __name__ == "__main__":
    faulthandler.dump_traceback_later(240)
    sys.path.append(sys.argv[1])
    print(json.dumps(asyncio.run(ask(sys.argv[2], Path(sys.argv[3])))))
