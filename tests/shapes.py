"""Shapes and kinds of numbers in `rpo`'s annotations, checked while the tests call it.

What an annotation says of arrays is checked, on the way in and out, with the same name the same
length within a call. The rest of it is not: tests act with policies of one line, pass settings that
must be refused, and hand in numpy's arrays, or mere shapes, where `rpo` is passed JAX's.

jaxtyping has an import hook of its own. This one leaves out what says nothing of arrays, which
would be called half as fast, and functions within functions, which are made anew all the time.
"""

from __future__ import annotations

import ast
import functools
import sys
import types
import typing
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

import jax
import numpy as np
from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

ARRAYS = np.ndarray | jax.Array | jax.ShapeDtypeStruct


def check_annotations() -> None:
    """From now on every module of `rpo` that is imported is checked."""
    sys.meta_path.insert(0, Finder())


class Finder(MetaPathFinder):
    """Finds modules of `rpo` for `Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """What is not of `rpo`, others find."""
        if fullname.partition(".")[0] != "rpo":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(fullname, spec.loader.path)
        return spec


class Loader(SourceFileLoader):
    """Loads a module with `checked` on its functions, methods and records."""

    def path_stats(self, path: str) -> Any:
        """There is no byte code of it, lest others load it."""
        raise OSError

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        """The module's code."""
        tree = Decorated().visit(ast.parse(data))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        """Runs the module."""
        vars(module).update(__checked__=checked, __record__=jaxtyped(typechecker=of_arrays_only))
        super().exec_module(module)


class Decorated(ast.NodeTransformer):
    """Puts the decorators in."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """The innermost one, for others, as JAX's, may hide what is annotated."""
        node.decorator_list.append(ast.Name("__checked__", ast.Load()))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """The outermost one: it wraps the `__init__` that a dataclass gets."""
        fields = [
            ast.unparse(one.annotation) for one in node.body if isinstance(one, ast.AnnAssign)
        ]
        self.generic_visit(node)
        if any("Array" in field or "ndarray" in field for field in fields):
            node.decorator_list.insert(0, ast.Name("__record__", ast.Load()))
        return node


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises jaxtyping's TypeCheckError if arrays are not as annotated.

    Its first call finds out whether there is something to check: by then all names are known.
    """
    if not function.__annotations__:
        return function
    settled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not settled:
            narrowed = of_arrays_only(function)
            wrap = jaxtyped(typechecker=of_arrays_only)
            settled.append(function if narrowed is function else wrap(function))
        return settled[0](*args, **kwargs)

    return call


def of_arrays_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Beartype's check of what is annotated as an array; the function itself if nothing is."""
    arrays = {name: of_arrays(hint) for name, hint in typing.get_type_hints(function).items()}
    if all(hint is Any for hint in arrays.values()):
        return function
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    functools.update_wrapper(copy, function)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = arrays
    return beartype(copy)


def of_arrays(hint: Any) -> Any:
    """What an annotation says of arrays; Any if it is nothing."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        either = ARRAYS if hint.array_type is jax.Array else hint.array_type
        return hint.dtype[either, hint.dim_str]
    parts = typing.get_args(hint)
    if not any(of_arrays(part) is not Any for part in parts):
        return Any
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [(of_arrays(part), part) for part in parts]
        return typing.Union[tuple(part if a is Any else a for a, part in found)]  # noqa: UP007
    if hint.__origin__ in (tuple, list, dict):
        return hint.__origin__[tuple(of_arrays(part) if part is not ... else ... for part in parts)]
    return Any  # callables and the like are not called here
