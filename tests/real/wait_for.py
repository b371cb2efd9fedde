"""Wait until a URL answers 200, or a process is gone: ``wait_for.py URL PID``."""

import os
import sys
import time
import urllib.error
import urllib.request

MOST_SECONDS = 300


def main(url: str, pid: int) -> str | None:
    for _ in range(MOST_SECONDS):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return None
        except (urllib.error.URLError, OSError):
            pass
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return f"process {pid} ended before {url} answered"
        time.sleep(1)
    return f"{url} did not answer within {MOST_SECONDS} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
