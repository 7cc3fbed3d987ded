"""Reading the arguments of a command, and saying in one line what is wrong with them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


class UsageError(Exception):
    """The command line cannot be understood; the message is one line."""


def parse(form: Callable[..., T], arguments: list[str], program: str, default: Any = None) -> T:
    """Reads arguments; what is wrong with them becomes one line.

    Args:
        form: a dataclass or function whose fields are the arguments.
        arguments: of the command.
        program: name of the command.
        default: a filled-in form.

    Raises:
        UsageError: if they do not fit the form.
        SystemExit: after `--help`.
    """
    complaint = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: T = tyro.cli(
                form,
                args=arguments,
                prog=program,
                config=(tyro.conf.OmitArgPrefixes,),
                **options,
            )
            return parsed
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(
            f"{_first_paragraph(complaint.getvalue())}; see {program} --help"
        ) from None


def _first_paragraph(box: str) -> str:
    """The text above the first rule of tyro's boxed message, as one line."""
    words: list[str] = []
    for line in box.splitlines():
        text = line.strip("│╭╮╰╯ ")
        if line.startswith("╭"):
            continue
        if not text.strip("─"):
            break
        words.append(text)
    return " ".join(" ".join(words).split())


def value_of(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--flag value` or `--flag=value`, and the arguments without it.

    Raises:
        UsageError: if the value is missing.
    """
    for k, argument in enumerate(arguments):
        if argument == f"--{flag}":
            if k + 1 == len(arguments):
                raise UsageError(f"--{flag} needs a value")
            return arguments[k + 1], arguments[:k] + arguments[k + 2 :]
        if argument.startswith(f"--{flag}="):
            return argument.split("=", 1)[1], arguments[:k] + arguments[k + 1 :]
    return None, arguments


def flags_of(owner: str, default: Any) -> list[str]:
    """Names of the settings in the field `owner` of a form: its own name, or those of a group."""
    value = getattr(default, owner)
    return list(vars(value)) if dataclasses.is_dataclass(value) else [owner]


def require_known_flags(arguments: list[str], known: list[str], hint: str) -> None:
    """Refuses a flag that nobody knows, with the closest one that somebody does.

    Args:
        arguments: of the command.
        known: names of settings, with underscores.
        hint: what more to say.

    Raises:
        UsageError: if one is unknown.
    """
    for argument in arguments:
        name = argument[2:].split("=", 1)[0].replace("-", "_")
        if not argument.startswith("--") or name == "help" or name in known:
            continue
        if name.removeprefix("no_") in known:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        maybe = f" (did you mean --{close[0].replace('_', '-')}?)" if close else ""
        every = ", ".join("--" + flag.replace("_", "-") for flag in known)
        raise UsageError(
            f"unknown setting --{name.replace('_', '-')}{maybe}; known: {every}; {hint}"
        )
