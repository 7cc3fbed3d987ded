"""Fuzzing for as long as it is told.

    python -m tests.fuzz mjcf --inputs 100000
    python -m tests.fuzz runs --hours 8
    python -m tests.fuzz mjcf --inputs 100000 --recombine 50
    python -m tests.fuzz mjcf --hours 8 --guided     # by coverage, with atheris

Without `--guided` inputs come from hypothesis, which shrinks a failing one and prints it; with
`--recombine` so many more for each of them are made of their pieces, far faster. With `--guided`
atheris turns bytes into such inputs (`fuzz_one_input`) and keeps those that reach new code. Ends
with exit status 1 and the input at the first broken promise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

CHUNK = 500
"""Inputs between two looks at the clock."""
POOL = 2000
"""Inputs that others are put together from."""
TAKEN_COUNT = {"mjcf": 20, "urdf": 20}
"""So many times an input that was taken is among them, where most are refused."""
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


def main() -> int:
    """Fuzzes one target.

    Returns:
        the exit status: 0 all promises kept.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="tests.fuzz")
    parser.add_argument("target", choices=("mjcf", "urdf", "settings", "runs"))
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--hours", type=float, help="instead of a number of inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recombine", type=int, default=0, help="inputs for each that is drawn")
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    seconds = asked.hours * 3600 if asked.hours is not None else None
    return _guided(asked, seconds) if asked.guided else _random(asked, seconds)


def _random(asked: argparse.Namespace, seconds: float | None) -> int:
    from tests.fuzz import recombine, targets

    call, strategies = targets.target(asked.target), targets.STRATEGIES[asked.target]
    begin, done, each = time.monotonic(), 0, 1 + asked.recombine
    pool: list[tuple[Any, ...]] = []
    latest: list[Any] = []
    more = TAKEN_COUNT.get(asked.target, 1) - 1

    def take(*arguments: Any) -> None:
        latest[:], taken = arguments, targets.counted[f"{asked.target} taken"]
        call(*arguments)
        if targets.counted[f"{asked.target} taken"] > taken:  # more of these are worth having
            pool.extend([arguments] * more)
        pool.append(arguments)

    while (time.monotonic() - begin < seconds) if seconds is not None else done < asked.inputs:
        left = CHUNK if seconds is not None else min(CHUNK, asked.inputs - done)
        drawn = -(-left // each)
        chunk = seed(asked.seed + done)(_test(take, strategies, drawn))
        luck = random.Random(f"{asked.seed} {done}")
        try:
            chunk()
            for _ in range(left - drawn):
                take(*recombine.recombined(asked.target, pool, luck))
        except Exception as error:
            _say(asked.target, begin, failed=repr(error)[:500], input=repr(latest))
            raise
        done += left
        pool[:] = luck.sample(pool, min(len(pool), POOL))
        _say(asked.target, begin)
    return 0


def _test(call: Callable[..., None], strategies: tuple[Any, ...], count: int) -> Any:
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.tuples(*strategies))
    def test(arguments: tuple[Any, ...]) -> None:
        call(*arguments)

    return test


def _guided(asked: argparse.Namespace, seconds: float | None) -> int:
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        from tests.fuzz import targets
    call, strategies = targets.target(asked.target), targets.STRATEGIES[asked.target]
    one_input: Callable[[bytes], Any] = _test(call, strategies, 1).hypothesis.fuzz_one_input
    corpus = []
    if asked.target in ("mjcf", "urdf"):  # their text itself, from shipped robots on: far faster
        rest = (True,) if asked.target == "urdf" else ()
        one_input = lambda data: call(data.decode("utf-8", "replace"), *rest)  # noqa: E731
        corpus = [_seeds(asked.target)]
    begin, last = time.monotonic(), [time.monotonic()]

    def take(data: bytes) -> None:
        one_input(data)
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            _say(asked.target, begin)

    limit = (
        [f"-max_total_time={int(seconds)}"] if seconds is not None else [f"-runs={asked.inputs}"]
    )
    options = [*limit, f"-seed={asked.seed + 1}", "-max_len=16384", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *corpus, *options, "-timeout=60", "-print_final_stats=1"], take)
    import atexit

    atexit.register(_say, asked.target, begin)
    atheris.Fuzz()
    return 0


def _seeds(target: str) -> str:
    """A folder of texts to begin with."""
    import tempfile
    from pathlib import Path

    from tests.fuzz import robots

    folder = Path(tempfile.mkdtemp(prefix="rpo_fuzz_seeds_"))
    for number, text in enumerate(robots.ASSETS if target == "mjcf" else [robots.URDF]):
        (folder / str(number)).write_text(text)
    return str(folder)


def _say(target: str, begin: float, **more: Any) -> None:
    from tests.fuzz import targets

    facts = {
        "target": target,
        "seconds": round(time.monotonic() - begin, 1),
        "inputs": dict(targets.counted),
        "slowest_seconds": round(targets.slowest.get(target, 0.0), 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(json.dumps(facts | more), flush=True)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # JAX's threads have nothing left to say
