"""Reading the arguments of a command, and saying in one line what is wrong with them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


class UsageError(Exception):
    """The command line cannot be understood; the message is one line."""


_OTHER_NAMES = {
    "gamma": "discount",
    "lr": "actor_learning_rate",
    "learning_rate": "actor_learning_rate",
    "n_envs": "num_envs",
    "environments": "num_envs",
    "steps": "total_steps",
    "timesteps": "total_steps",
    "total_timesteps": "total_steps",
    "n_steps": "horizon",
    "rollout_length": "horizon",
    "batch": "batch_size",
    "algo": "algorithm",
    "out": "output",
}
"""What settings are called elsewhere."""
_ONE = "; one of them would be left out of account"


def parse(
    form: Callable[..., T],
    arguments: list[str],
    program: str,
    default: Any = None,
    *,
    others: Sequence[str] = (),
    hint: str = "",
) -> T:
    """Reads arguments; what is wrong with them becomes one line.

    Args:
        form: a dataclass or function whose fields are the arguments.
        arguments: of the command.
        program: name of the command.
        default: a filled-in form.
        others: names of flags that the caller has read himself; a misspelt one may mean them.
        hint: what more to say of an unknown flag, by default where all are explained.

    Raises:
        UsageError: if they do not fit the form.
        SystemExit: after `--help`.
    """
    settings = _settings(form, default)
    if settings:
        hint = hint or f"{program} --help explains them"
        _require_known_flags(arguments, [*settings, *others], hint)
    if settings and not {"-h", "--help"} & set(arguments):
        switches = {name for name, (_, usual) in settings.items() if isinstance(usual, bool)}
        _require_values(arguments, switches)
    counts = {name for name, (kind, _) in settings.items() if re.search(r"\bint\b", kind)}
    complaint = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: T = tyro.cli(
                form,
                args=_whole_numbers(arguments, counts),
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


def _whole_numbers(arguments: list[str], counts: set[str]) -> list[str]:
    """Arguments in which whole numbers such as 1e6 are written out, where a setting wants those."""
    words, wanted = [], False
    for word in arguments:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            wanted = flag[2:].replace("-", "_") in counts
            words.append(f"{flag}={_written_out(value)}" if equals and wanted else word)
        else:
            words.append(_written_out(word) if wanted else word)
    return words


def _require_values(arguments: list[str], switches: set[str]) -> None:
    """Refuses a flag that is given twice, one without a value, and what is empty.

    Raises:
        UsageError: naming the first of them.
    """
    given: dict[str, str] = {}
    for word, following in zip(arguments, [*arguments, "--"][1:], strict=True):
        flag, equals, value = word.partition("=")
        if not flag.startswith("--"):
            if not word.strip():  # a variable of the shell that is not set
                raise UsageError("an argument is empty")
            continue
        name = flag[2:].replace("-", "_")
        positive = name.removeprefix("no_")
        name = positive if positive in switches else name
        if name in given:
            other = "twice" if given[name] == flag else f"beside {given[name]}"
            raise UsageError(f"{flag} is given {other}{_ONE}")
        given[name] = flag
        if name not in switches:
            _require_value(flag, value if equals else following)


def _require_value(flag: str, value: str) -> None:
    if value.startswith("--") or not value.strip():
        raise UsageError(f"{flag} needs a value")


def _settings(form: Any, default: Any) -> dict[str, tuple[str, Any]]:
    """Of each of a form's settings, those of its groups included: its type, and its value if it
    is not given."""
    if not dataclasses.is_dataclass(form):
        return {}
    settings: dict[str, tuple[str, Any]] = {}
    for field in dataclasses.fields(form):
        usual = None if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            usual = field.default_factory()
        value = getattr(default, field.name, usual)
        if dataclasses.is_dataclass(value):
            settings |= _settings(type(value), value)
        else:
            settings[field.name] = (str(field.type), value)
    return settings


def _written_out(word: str) -> str:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE]\+?\d{1,2}", word):
        return word
    value = float(word)
    return str(int(value)) if value.is_integer() else word


def _first_paragraph(box: str) -> str:
    """The text above the first rule of tyro's message, which has a title and may be in a box, as
    one line."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯ ")
        if text.strip("─-"):
            words.append(text)
        elif words:
            break
    # Lines are broken within numbers and words, too.
    whole = re.sub(r"(?<=\d,)\n(?=\d{3}\b)|(?<=\w-)\n(?=\w)", "", "\n".join(words))
    text = " ".join(whole.split())
    return re.sub(r"^Error parsing \w[\w-]*: ", "", text)  # tyro's name of a group of settings


def value_of(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--flag value` or `--flag=value`, and the arguments without it.

    Raises:
        UsageError: if the value is missing, or the flag is given twice.
    """
    places = [k for k, word in enumerate(arguments) if word.split("=", 1)[0] == f"--{flag}"]
    if not places:
        return None, arguments
    first, end = places[0], places[0] + 1
    _, equals, value = arguments[first].partition("=")
    if not equals:
        value = " ".join(arguments[end : end + 1])
        end += 1
    _require_value(f"--{flag}", value)
    if len(places) > 1:
        raise UsageError(f"--{flag} is given twice{_ONE}")
    return value, arguments[:first] + arguments[end:]


def _require_known_flags(arguments: list[str], known: list[str], hint: str) -> None:
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
        other = [flag for flag, meant in _OTHER_NAMES.items() if meant in known]
        close = difflib.get_close_matches(name, [*known, *other], n=3, cutoff=0.65)
        meant = dict.fromkeys(_OTHER_NAMES.get(one, one) for one in close)
        flags = " or ".join("--" + flag.replace("_", "-") for flag in meant)
        maybe = f" (did you mean {flags}?)" if flags else ""
        raise UsageError(f"unknown setting --{name.replace('_', '-')}{maybe}; {hint}")
