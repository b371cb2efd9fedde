"""Runs Math-Verify over cases from standard input; started by :mod:`.verifiers` with another environment's
Python.

Imports nothing of this project. Reads one JSON list of [prediction, reference], writes one JSON list of
[verdict, seconds].
"""

import importlib
import json
import sys
import time


def main() -> None:
    """Judge each pair as Math-Verify's README does: parse both, then verify(gold, answer)."""
    # by name, since this project's own environment does not have it
    peer = importlib.import_module("math_verify")
    parse, verify = peer.parse, peer.verify

    config = [peer.LatexExtractionConfig(), peer.ExprExtractionConfig()]
    pairs = json.load(sys.stdin)
    parse("$x+1$", extraction_config=config)  # the first call builds tables: not counted
    results = []
    for prediction, reference in pairs:
        begun = time.perf_counter()
        try:
            gold = parse(reference if "$" in reference else f"${reference}$", extraction_config=config)
            bare = (
                "boxed" not in prediction
                and "$" not in prediction
                and "\\(" not in prediction
                and "\\[" not in prediction
            )
            short = bare and "answer" not in prediction.lower() and "####" not in prediction
            answer = parse(f"${prediction}$" if short else prediction, extraction_config=config)
            verdict = bool(verify(gold, answer))
        except Exception:  # what it raises counts against nobody: no verdict
            verdict = False
        results.append([verdict, time.perf_counter() - begun])
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
