"""What log-probabilities cost a journal: bytes of one attempt with their table and with its summary.

    python -m heartloop_benchmarks.perf.confidence [--tokens 100 1000 10000]

An answer of so many tokens with 20 alternatives each (drawn; words of five letters), as the journal holds its
completion and its attempt; and the milliseconds of processor time that summing up takes.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace

from heartloop.confidence import confidence_of
from heartloop.engine.serial import attempt_to_dict, completion_to_dict
from heartloop.journal.codec import dumps
from heartloop.responders.chat import attempt_from
from heartloop.types import Completion, Problem, TokenLogprob, Usage


def drawn(tokens: int, seed: int = 0) -> Completion:
    """An answer with its table."""
    rng = random.Random(seed)
    letters = "etaoinshrdlu"

    def word() -> str:
        return " " + "".join(rng.choices(letters, k=4))

    rows = []
    for _ in range(tokens):
        top = tuple((word(), -rng.expovariate(0.1)) for _ in range(20))
        rows.append(TokenLogprob(top[0][0], top[0][1], top))
    text = "".join(row.token for row in rows)
    return Completion(text, usage=Usage(100, tokens), model="m", logprobs=tuple(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[100, 1000, 10_000])
    args = parser.parse_args()
    print(f"{'tokens':>8}{'text':>10}{'plain':>10}{'summary':>10}{'table':>12}{'ms':>8}")
    for tokens in args.tokens:
        whole = drawn(tokens)
        start = time.process_time()
        summary = confidence_of(whole.logprobs, alternatives=20)
        spent = 1000 * (time.process_time() - start)
        sizes = []
        for completion in (
            replace(whole, logprobs=None),
            replace(whole, logprobs=None, confidence=summary),
            replace(whole, confidence=summary),
        ):
            attempt = attempt_from(completion, Problem("p", "?"), branch="0", round=1)
            sizes.append(len(dumps(completion_to_dict(completion))) + len(dumps(attempt_to_dict(attempt))))
        plain, small, large = sizes
        print(f"{tokens:8}{len(whole.text):10,}{plain:10,}{small:10,}{large:12,}{spent:8.1f}")


if __name__ == "__main__":
    main()
