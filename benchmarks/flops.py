"""Floating-point operations of a JAX program, counted in its jaxpr.

A matrix product of (m, k) and (k, n) counts 2 m n k; an arithmetic operation or a function such as
exp counts one per element of its result; a reduction counts one per element of its argument.
Comparisons, selections, copies, gathers and everything on integers count nothing. Loops count as
often as they run, except those whose number of turns only the data knows: they count once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

PER_ELEMENT = frozenset(
    {
        *("add", "add_any", "sub", "mul", "div", "neg", "max", "min", "clamp", "abs", "sign"),
        *("exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "erf", "erf_inv"),
        *("sqrt", "rsqrt", "cbrt", "square", "pow", "integer_pow"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh"),
    }
)
REDUCTIONS = frozenset(
    {
        *("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"),
        *("cumsum", "cumprod", "cummax", "cumlogsumexp"),
    }
)


def count_flops(function: Any, *arguments: Any) -> float:
    """Operations of one call of `function`, on all its devices together."""
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name in PER_ELEMENT:
        return _size(equation.outvars[0])
    if name in REDUCTIONS:
        return _size(equation.invars[0])
    inner = [_of_jaxpr(jaxpr) for jaxpr in inner_jaxprs(parameters)]
    if name == "scan":
        return parameters["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return parameters["mesh"].size * sum(inner)
    if name == "custom_vjp_call":  # its parameters hold the backward functions as well
        return _of_jaxpr(parameters["call_jaxpr"].jaxpr)
    return sum(inner)


def _of_product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * _size(equation.outvars[0]) * math.prod(left[axis] for axis in contracted)


def _size(variable: Any) -> float:
    is_float = jnp.issubdtype(variable.aval.dtype, jnp.floating)
    return float(variable.aval.size) if is_float else 0.0


def inner_jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs among an equation's parameters."""
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
