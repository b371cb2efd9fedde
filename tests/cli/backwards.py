"""``heartloop`` on a machine whose clock goes backwards: ``python backwards.py SECONDS STEP run ...``.

The time of day begins ``SECONDS`` ahead (less than 0: behind) and goes back by ``STEP`` seconds each time it
is asked, as if someone kept setting it. The monotonic clock, which the system never sets, is left alone.
"""

from __future__ import annotations

import sys
import time

from heartloop import cli


def main() -> None:
    shift, step = float(sys.argv.pop(1)), float(sys.argv.pop(1))
    real = time.time

    def backwards() -> float:
        nonlocal shift
        shift -= step
        return real() + shift

    time.time = backwards
    cli.main()


if __name__ == "__main__":
    main()
