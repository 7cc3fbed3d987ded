"""How large the GPU kernels of a control step are, which compile time and registers grow with.

Counts the operations of a kernel's program as JAX traces it, each once however often a loop runs.
Needs no GPU, and says nothing about speed.

    python benchmarks/kernel_size.py [--tasks hopper ant anymal humanoid]
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flops import PER_ELEMENT, inner_jaxprs
from record import markdown

from rpo import envs
from rpo.physics.kernel import BLOCK, kernel_step

TASKS = ("hopper", "ant", "anymal", "humanoid")
COLUMNS = ("robot", "kernel", "operations", "arithmetic on floats")


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program that hold no other program."""
    for equation in jaxpr.eqns:
        inside = list(inner_jaxprs(equation.params))
        if not inside:
            yield equation
        for one in inside:
            yield from equations(one)


def kernels(jaxpr: Any) -> Iterator[Any]:
    """The programs of all kernels that a program calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation.params["jaxpr"]
        else:
            for one in inner_jaxprs(equation.params):
                yield from kernels(one)


def is_arithmetic(equation: Any) -> bool:
    """Whether it computes a floating-point number."""
    of_floats = jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
    return equation.primitive.name in PER_ELEMENT and of_floats


def sizes(task: str) -> list[tuple[str, ...]]:
    """A row for the forward kernel, which writes the substeps down, and one for the backward."""
    env: Any = envs.make(task)
    model, step = env.model, functools.partial(kernel_step, env.model, env.settings.step_settings)
    rows = (model.nq, model.nv, model.nv)
    arrays = [jax.ShapeDtypeStruct((size, BLOCK), jnp.float32) for size in rows]

    def gradient(q: jax.Array, qd: jax.Array, force: jax.Array) -> Any:
        return jax.vjp(step, q, qd, force)[1]((q, qd))

    found = list(kernels(jax.make_jaxpr(gradient)(*arrays).jaxpr))
    result = []
    for name, kernel in zip(("forward", "backward"), found, strict=True):
        all_of_it = list(equations(kernel))
        arithmetic = sum(map(is_arithmetic, all_of_it))
        result.append((task, name, f"{len(all_of_it):,}", f"{arithmetic:,}"))
    return result


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    chosen = parser.parse_args().tasks
    print(markdown(COLUMNS, [row for task in chosen for row in sizes(task)]))


if __name__ == "__main__":
    main()
