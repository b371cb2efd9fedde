"""Waves at a real vLLM: ``run-batch`` over files, and an ``LLM`` in the process.

Both start vLLM by themselves. HEARTLOOP_VLLM_VENV and HEARTLOOP_VLLM_CHECKPOINT say where it is, which
``make test-real`` sets. They assert on counts, never on what the model said.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.cli.command import environment, finish, process, sums

VENV = os.environ.get("HEARTLOOP_VLLM_VENV", "")
CHECKPOINT = os.environ.get("HEARTLOOP_VLLM_CHECKPOINT", "")
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
}
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (VENV and CHECKPOINT),
        reason="HEARTLOOP_VLLM_VENV and HEARTLOOP_VLLM_CHECKPOINT don't say where a vLLM and its model are",
    ),
]


def test_a_run_by_run_batch(tmp_path: Path) -> None:
    data = sums(tmp_path / "data.jsonl", 4)
    command = (
        f"{VENV}/bin/vllm run-batch -i {{input}} -o {{output}} --model {{model}} --max-model-len 1024"
        " --dtype bfloat16 --enforce-eager --max-num-seqs 16"
    )
    done = finish(
        process(
            *("run", "--data", data, "--model", f"vllm-batch/{CHECKPOINT}", "--batch-command", command),
            *("--strategy", "resample", "--max-rounds", "1", "--width", "2", "--max-tokens", "24"),
            *("--out", tmp_path / "run", "--json"),
            env=environment(**QUIET),
        ),
        timeout=900,
    )
    assert done.code == 0, done.err
    assert done.json["finished"] == 4
    assert done.json["calls"] == 8
    assert done.json["tokens"]["assumed"] == 0
    assert 0 < done.json["completion_tokens"]["confirmed"] <= 8 * 24
    [wave] = (tmp_path / "run/waves").iterdir()
    assert len((wave / "out.jsonl").read_text().splitlines()) == 8


def test_a_loop_over_an_llm_in_the_process(tmp_path: Path) -> None:
    script, site = ROOT / "tests/real/offline_vllm.py", sysconfig.get_paths()["purelib"]
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "verifiers", "benchmarks"))
    done = subprocess.run(
        [f"{VENV}/bin/python", str(script), site, CHECKPOINT, str(tmp_path / "journal")],
        env={**environment(**QUIET), "PYTHONPATH": paths},
        capture_output=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    # vLLM logs to standard output too.
    [line] = [line for line in done.stdout.splitlines() if line.startswith(b'{"solved"')]
    found = json.loads(line)
    assert found["attempts"] == [4] * 6
    assert found["confirmed"][1] == 24
    assert found["assumed"] == found["open"] == 0
    assert found["context"] == 512
    assert found["alone"]["long"]["error"] == "ContextOverflow"
    assert found["alone"]["odd"]["error"] == "BadRequest"
    assert 0 < found["alone"]["good"]["completion"] <= 8
    assert found["alone"]["good"]["prompt"] > 0
    assert found["alone"]["rows"]["rows"] == found["alone"]["rows"]["prompt"]
    assert {found["alone"][name]["text"] for name in ("old name", "new name")} <= {"red", "blue"}
