"""A job in miniature that keeps the worker's protocol.

    python tiny_job.py DIR NAME [--until FILE] [--code N] [--once-75] [--stubborn]

It appends what it sees of its environment to DIR/NAME.starts at each start, counts steps of 20 ms until FILE exists
(at once where none is given), and writes its step to DIR/NAME.step and ends with 75 when SIGTERM or SIGUSR2 comes, to
continue from there at its next start. DIR/NAME.done has one line for each time that it reached its end.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=Path)
    parser.add_argument("name")
    parser.add_argument("--until", type=Path)
    parser.add_argument("--code", type=int, default=0)
    parser.add_argument("--once-75", action="store_true", help="end the first start with 75, as if interrupted")
    parser.add_argument("--stubborn", action="store_true", help="do not listen to signals")
    options = parser.parse_args()

    signals: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(signum, lambda number, _frame: options.stubborn or signals.append(number))

    checkpoint = options.dir / f"{options.name}.step"
    first_step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    seen = {key: value for key, value in os.environ.items() if key.startswith(("CAUSALSWEEP_", "CUDA_", "TINY_"))}
    starts = options.dir / f"{options.name}.starts"
    with open(starts, "a") as file:
        file.write(json.dumps({"pid": os.getpid(), "step": first_step, "time": time.time(), **seen}) + "\n")
    print(f"{options.name} starts at step {first_step}", flush=True)

    step = first_step
    if options.once_75 and first_step == 0:
        signals.append(0)
        step = 1
    while not signals and options.until is not None and not options.until.exists():
        time.sleep(0.02)
        step += 1
    if signals:
        partial = checkpoint.with_suffix(".tmp")
        partial.write_text(str(step))
        partial.replace(checkpoint)
        print(f"{options.name} interrupted at step {step}", flush=True)
        return 75
    with open(options.dir / f"{options.name}.done", "a") as file:
        file.write(f"{step}\n")
    return options.code


if __name__ == "__main__":
    sys.exit(main())
