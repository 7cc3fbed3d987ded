"""Fuzzing for as long as it is told.

    python -m tests.fuzz all --hours 8 --json results/soak/fuzz.json
    python -m tests.fuzz mjcf --inputs 100000
    python -m tests.fuzz mjcf --recombine 0         # all drawn, and made smaller if they fail
    python -m tests.fuzz mjcf --hours 8 --guided    # by coverage, with atheris

Inputs come from hypothesis, and for each of them fifty more (`--recombine`) are made of their
pieces, far faster. With `--guided` atheris turns bytes into such inputs (`fuzz_one_input`) and
keeps those that reach new code. Every run has other inputs, unless it is given a `--seed`. Counts
are printed, and with `--json` kept in a file, every minute. A target ends at its first broken
promise, with the input and exit status 1; `all` gives every target its share of the time, and goes
on with the next one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.drive import Driver, as_test
from tests.fuzz.record import Record

TARGETS = ("mjcf", "urdf", "settings", "runs")
CHUNK = 500
"""Inputs from one seed."""
ADDRESS_SPACE = 16 * 2**30
INSTRUMENTED = (
    "rpo.physics.mjcf",
    "rpo.physics.mjcf_checks",
    "rpo.physics.unsupported",
    "rpo.physics.model",
    "rpo.training.run_files",
    "rpo.training.metrics",
    "rpo.training.typed",
    "rpo.training.settings",
)


def main(arguments: list[str] | None = None) -> int:
    """Fuzzes one target, or all of them.

    Args:
        arguments: of the command.

    Returns:
        the exit status: 0 all promises kept.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, prog="tests.fuzz", formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", choices=(*TARGETS, "all"))
    parser.add_argument("--inputs", type=int, default=1000, help="of each target")
    parser.add_argument("--hours", type=float, help="instead of a number of inputs")
    parser.add_argument("--seed", type=int, help="by default from the clock")
    parser.add_argument("--recombine", type=int, default=50, help="inputs for each that is drawn")
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--json", type=Path, help="file that the counts are added to")
    words = sys.argv[1:] if arguments is None else arguments
    asked = parser.parse_args(words)
    if asked.inputs < 1 or asked.recombine < 0 or not 0 < (asked.hours or 1) < 1e5:
        parser.error("--inputs and --hours must be positive, --recombine must not be negative")
    if asked.target == "all":
        return _all(asked)
    asked.seed = int(time.time()) * 1000 if asked.seed is None else asked.seed
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    how = shlex.join(["python", "-m", "tests.fuzz", *words])
    record = Record(asked.json, asked.target, how, asked.seed)
    return _guided(asked, record) if asked.guided else _random(asked, record)


def _all(asked: argparse.Namespace) -> int:
    """Every target in a process of its own, one after the other."""
    hours = None if asked.hours is None else round(asked.hours / len(TARGETS), 4)
    given = {"inputs": asked.inputs} if hours is None else {"hours": hours}
    given |= {"seed": asked.seed, "recombine": asked.recombine, "json": asked.json}
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    words += ["--guided"] * asked.guided
    command = [sys.executable, "-m", "tests.fuzz"]
    ended = [subprocess.run([*command, target, *words]).returncode for target in TARGETS]
    return int(any(ended))


def _random(asked: argparse.Namespace, record: Record) -> int:
    driver = Driver(asked.target, record.tell_now_and_then)
    begin, done, each = time.monotonic(), 0, 1 + asked.recombine

    def goes_on() -> bool:
        if asked.hours is None:
            return done < asked.inputs
        return time.monotonic() - begin < asked.hours * 3600

    while goes_on():
        left = CHUNK if asked.hours is not None else min(CHUNK, asked.inputs - done)
        drawn = -(-left // each)
        try:
            driver.run(drawn, left - drawn, asked.seed + done)
        except Exception as error:
            print(json.dumps(record.tell(repr(error)[:500])), flush=True)
            raise
        done += left
        print(json.dumps(record.tell()), flush=True)
    return 0


def _guided(asked: argparse.Namespace, record: Record) -> int:
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        from tests.fuzz import targets
    call, strategies = targets.target(asked.target), targets.STRATEGIES[asked.target]
    one_input: Callable[[bytes], Any] = as_test(call, strategies, 1).hypothesis.fuzz_one_input
    corpus = []
    if asked.target in ("mjcf", "urdf"):  # their text itself, from shipped robots on: far faster
        rest = (True,) if asked.target == "urdf" else ()
        one_input = lambda data: call(data.decode("utf-8", "replace"), *rest)  # noqa: E731
        corpus = [_seeds(asked.target)]

    def take(data: bytes) -> None:
        one_input(data)
        record.tell_now_and_then()

    limit = (
        [f"-max_total_time={int(asked.hours * 3600)}"]
        if asked.hours is not None
        else [f"-runs={asked.inputs}"]
    )
    options = [*limit, f"-seed={asked.seed % 2**31 + 1}", "-max_len=16384", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *corpus, *options, "-timeout=60", "-print_final_stats=1"], take)
    import atexit

    atexit.register(lambda: print(json.dumps(record.tell()), flush=True))
    atheris.Fuzz()
    return 0


def _seeds(target: str) -> str:
    """A folder of texts to begin with."""
    import tempfile

    from tests.fuzz import robots

    folder = Path(tempfile.mkdtemp(prefix="rpo_fuzz_seeds_"))
    for number, text in enumerate(robots.ASSETS if target == "mjcf" else [robots.URDF]):
        (folder / str(number)).write_text(text)
    return str(folder)


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:  # what was counted is on disk
        status = 130
    sys.stdout.flush()
    os._exit(status)  # JAX's threads have nothing left to say
