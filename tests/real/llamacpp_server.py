"""llama.cpp's own server with the embedded model's weights: ``llamacpp_server.py [PORT]``.

Prints ``READY http://HOST:PORT/v1`` and serves until SIGTERM or SIGINT. It is the server that xllamacpp has
inside, with its HTTP side meant for others.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

SLOTS = 4
CONTEXT = 512
"""Tokens of one slot."""


def main(port: int) -> None:
    # Before the import, or its waiting threads spin and slow each other down.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp

    from heartloop.backends.llamacpp import find_model

    params = xllamacpp.CommonParams()
    params.model.path = str(find_model("smollm2-135m"))
    params.model_alias = {"smollm2-135m"}
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.cache_ram_mib = 64
    params.warmup = params.fit_params = params.ui = False
    params.verbosity = -1
    params.port = port
    server = xllamacpp.Server(params)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    print(f"READY {server.listening_address}/v1", flush=True)
    stopped.wait()
    del server


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
