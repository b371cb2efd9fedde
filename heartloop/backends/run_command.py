"""Runs a wave's command and writes down how it ended: ``python -S run_command.py FOLDER``.

A process of its own, which must need nothing but the standard library. It inherits the wave's lock and holds
it until it ends; the command does not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def main(place: Path) -> None:
    """Run ``command.json``; on success its output file gets its final name."""
    (place / "pid").write_text(str(os.getpid()))
    command = json.loads((place / "command.json").read_text())
    with (place / "log").open("ab") as log:
        try:
            status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
        except OSError as error:
            log.write(f"{command[0]}: {error.strerror}\n".encode())
            status = 127
    if status == 0 and (place / "out.jsonl.part").exists():
        os.rename(place / "out.jsonl.part", place / "out.jsonl")
    with (place / "exit.part").open("w") as file:
        file.write(str(status))
        file.flush()
        os.fsync(file.fileno())
    os.rename(place / "exit.part", place / "exit")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
