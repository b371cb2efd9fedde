"""Stands in for ``vllm run-batch``: ``python fake_run_batch.py -i IN -o OUT``, as vLLM 0.32 writes its files.

Answers are the fault server's. ``FAKE_SECONDS`` in the environment: take so long; ``FAKE_EXIT``: fail with
that status. Each run adds a line to ``runs`` beside its input file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.fault_server import FaultServer, _hash


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-i", type=Path)
    parser.add_argument("-o", type=Path)
    parser.add_argument("--model")
    given = parser.parse_args()
    with (given.i.parent / "runs").open("a") as runs:
        runs.write(f"{os.getpid()}\n")
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    if status := int(os.environ.get("FAKE_EXIT", "0")):
        print("ValueError: the model can't be loaded", file=sys.stderr)
        sys.exit(status)
    server = FaultServer()
    with given.o.open("w") as out:
        for line in given.i.read_text().splitlines():
            asked = json.loads(line)
            answer = {"id": "vllm-1", "custom_id": asked["custom_id"], "error": None}
            if "too odd" in line:
                message = {"message": "The request is too odd", "type": "BadRequestError", "code": 400}
                answer |= {"response": {"status_code": 400, "request_id": "r", "body": None}}
                answer |= {"error": {"error": message}}
            else:
                body = server._answer("ok", asked["body"], _hash(asked["body"]))
                answer |= {"response": {"status_code": 200, "request_id": "r", "body": body}}
            out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
