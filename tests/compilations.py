"""What a piece of code compiles: small programs are cheap one by one, and come in dozens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the programs that the block asks XLA or its cache for."""
    names: list[str] = []

    def listen(event: str, duration: float, **facts: object) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(facts.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
