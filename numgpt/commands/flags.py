"""Flags: the parser, flags that several commands share, and the types of their arguments."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from typing import Any, NoReturn

from ..architecture.config import Config, Training
from ..errors import InputError
from ..tokenizers.tokenizer import POLICIES

Flags = argparse.ArgumentParser | argparse._ArgumentGroup  # what a flag is added to

DTYPES = ("float32", "float64")
MODEL = "a checkpoint, a run, a folder of transformers, or hf:NAME for a model on the Hugging Face hub"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves the example on its line, and room for long flags beside their help."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30} | options)

    def add_argument(self, action: argparse.Action) -> None:
        """Count the indent of subcommands, which argparse forgets, so that their help stands beside them."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Break no line between "default:" and the default."""
        lines = super()._split_lines(text.replace("(default: ", "(default:\xa0"), width)
        return [line.replace("\xa0", " ") for line in lines]


class Parser(argparse.ArgumentParser):
    """Reports bad flags as an InputError: one line, and status 2."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse with its message."""
        raise InputError(f"{message}; see {self.prog} --help")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """The value of a flag; Python 3.11 drops that of --top-p=-- and gives an empty list."""
        if not action.option_strings or arg_strings != ["--"]:
            return super()._get_values(action, arg_strings)
        value = self._get_value(action, "--")
        self._check_value(action, value)
        return value if action.nargs in (None, argparse.OPTIONAL) else [value]


def describe(parser: argparse.ArgumentParser, sentence: str, example: str) -> None:
    """Give a command's page of help its sentence, its example and a usage of one line.

    The usage names what cannot be left out; optional flags are listed right below it.
    """
    parser.description = sentence
    parser.epilog = f"example: {example}"
    parser.formatter_class = HelpFormatter
    required = [f"{a.option_strings[-1]} {a.metavar or ''}" for a in parser._actions if _is_required_flag(a)]
    positional = [_usage(a) for a in parser._actions if not a.option_strings]
    parser.usage = " ".join(" ".join(["%(prog)s", *required, "[options]", *positional]).split())


def _is_required_flag(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.required


def _usage(action: argparse.Action) -> str:
    """A positional argument as a line of usage shows it."""
    name = action.metavar or action.dest
    if isinstance(action, argparse._SubParsersAction):
        return f"{name} ..."
    return {"?": f"[{name}]", "*": f"[{name} ...]"}.get(str(action.nargs), str(name))


def add(
    flags: Flags, *names: str, help: str, default: Any = None, shown: object = None, **options: Any
) -> None:
    """Add a flag whose help ends with its default: (default: 0.1).

    shown: what the help says instead, where an absent flag stands for something; "" for nothing.
    """
    shown = default if shown is None else shown
    if shown is not None and shown != "":
        help = f"{help} (default: {shown})"
    if default is not None:
        options["default"] = default
    flags.add_argument(*names, help=help.replace("%", "%%"), **options)


def add_engine(parser: argparse.ArgumentParser, tf32: bool = True) -> None:
    """Add the flags that choose the engine: main reads them for every command."""
    group = parser.add_argument_group("engine")
    add(
        group,
        "--engine",
        metavar="NAME",
        help="reference: the specification, in NumPy; numba: fast on a CPU; cupy: fast on an NVIDIA GPU",
        shown="$NUMGPT_ENGINE, else numba",
    )
    add(
        group,
        "--threads",
        type=positive,
        metavar="N",
        help="threads to compute with, on the numba and the reference engine",
        shown="all processors",
    )
    if tf32:
        add(
            group,
            "--tf32",
            action="store_true",
            help="let the cupy engine round the factors of float32 products to 10 bits: faster, less exact",
        )


def add_fields(
    parser: argparse.ArgumentParser, defaults: Config | Training, preset: str, **shown: str
) -> None:
    """Add a flag for every field of Config or Training; the result has only those that were given.

    defaults: the fields of the preset that the help speaks of. shown: other texts for a field's default.
    """
    kind = "model" if isinstance(defaults, Config) else "training"
    group = parser.add_argument_group(
        kind, f"each changes a field of the preset; the defaults are {preset}'s"
    )
    for field in dataclasses.fields(defaults):
        types = typing.get_args(field.type) or (field.type,)
        choices = field.metadata["choices"]
        if choices is not None and len(choices) == 1:
            continue  # what can be chosen in one way only is no flag
        options: dict[str, Any] = {"type": types[0], "choices": choices}
        if types[0] is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif not choices:
            options["metavar"] = "N" if types[0] is int else "X"
        value = getattr(defaults, field.name)
        add(
            group,
            "--" + field.name.replace("_", "-"),
            dest=field.name,
            help=field.metadata["help"],
            default=argparse.SUPPRESS,
            shown=shown.get(field.name, _shown(value)),
            **options,
        )


def _shown(value: object) -> str:
    """A default as a person reads it; that of None stands in the field's own help."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def fields(args: argparse.Namespace, settings: type[Config] | type[Training]) -> dict[str, Any]:
    """The fields of Config or Training that flags gave."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def add_checkpoint(parser: Flags) -> None:
    """Add the checkpoint that a command reads."""
    add(
        parser,
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT",
        help="a checkpoint, or a run",
        shown="the newest run under runs/",
    )


def add_data(parser: Flags, default: str) -> None:
    """Add the text that a command reads; default says what it reads without one."""
    add(
        parser,
        "--data",
        nargs="+",
        metavar="PATH",
        help="UTF-8 text files, or folders, of which .txt and .md files are read",
        shown=default,
    )


def add_special(parser: Flags, where: str, default: str | None = "refuse") -> None:
    """Add what becomes of special tokens; default None leaves it to the run that is resumed."""
    add(
        parser,
        "--special",
        choices=POLICIES,
        help=f"special tokens that {where} spells out: refuse them, allow them, or read them as text",
        default=default,
        shown="refuse",
    )


def shape(text: str) -> tuple[int, ...]:
    """A shape such as 3x5, for argparse."""
    sizes = text.replace(",", "x").split("x")
    if not all(size.isascii() and size.isdigit() for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape, expected sizes such as 3x5")
    return tuple(map(int, sizes))


def count(text: str) -> int:
    """An integer of 0 or more, for argparse."""
    return _at_least(0, text)


def positive(text: str) -> int:
    """An integer of 1 or more, for argparse."""
    return _at_least(1, text)


def _at_least(smallest: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = smallest - 1
    if value < smallest:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer, expected {smallest} or more")
    return value
