"""Flags: the parser, flags that several commands share, and the types of their arguments."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
import typing
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..architecture.config import Config, Training
from ..architecture.fields import frozen
from ..errors import InputError, did_you_mean
from ..storage.files import parse_json
from ..tokenizers.tokenizer import POLICIES

Flags = argparse.ArgumentParser | argparse._ArgumentGroup  # what a flag is added to

# How an error of the package names an argument of a function, as "generate: top_k is 0".
OF_ARGUMENT = re.compile(r"[\w.]+(?: [\w.]+)?: (?P<name>\w+) (?=is |are )")
MAY_BE_EMPTY = ("text",)  # the text that tokenizer encode and show are given: it has no tokens then
DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>[smh]?)")
SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
DTYPES = ("float32", "float64")
LONGEST_CHOICES = 72  # characters of choices that stand beside a flag
NUMBERS: dict[Any, str] = {int: "an integer", float: "a number"}
METAVARS: dict[Any, str] = {int: "N", float: "X", str: "WORDS"}
ADAPTER = "a folder with an adapter that PEFT saved for this model"
MODEL = (
    "a checkpoint, a run, a folder of transformers, a file of GGUF or llama2.c, numgpt:austen or numgpt:tiny,"
    " which ship, or hf:NAME for a model on the Hugging Face hub"
)
TEXTS = (
    "UTF-8 text files; folders, of which .txt and .md files are read; numgpt:austen for Jane Austen's six"
    " novels, numgpt:python for Python's language reference"
)


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
    """Reports bad flags as an InputError: one line, and status 2; for a misspelt one, what it may mean."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse with its message."""
        if message.startswith("the following arguments are required"):  # one may be there, misspelt
            known = tuple(flag for action in self._actions for flag in action.option_strings)
            words = [word for word in self._words if word.startswith("--") and not _is_known(word, known)]
            message += f"; {words[0]} is unknown{self._flags_near(words)}" if words else ""
        raise InputError(f"{message}; see {self.prog} --help")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """The value of a flag; Python 3.11 drops that of --top-p=-- and gives an empty list."""
        if not action.option_strings or arg_strings != ["--"]:
            return super()._get_values(action, arg_strings)
        value = self._get_value(action, "--")
        self._check_value(action, value)
        return value if action.nargs in (None, argparse.OPTIONAL) else [value]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; what this parser does not know is an error here, where its flags are at hand."""
        self._words: Sequence[str] = tuple(sys.argv[1:] if args is None else args)
        namespace, rest = self.parsed(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._flags_near(rest)}")
        return namespace, rest

    def parsed(self, args: Any, namespace: Any) -> Any:
        """The namespace, and what is left of the arguments."""
        return super().parse_known_args(args, namespace)

    def _flags_near(self, words: Sequence[str]) -> str:
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        names = [word.partition("=")[0] for word in words if word.startswith("-")]
        return did_you_mean(names[0].replace("_", "-"), flags) if names else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Called by argparse with a value that must be one of some choices."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            meant = did_you_mean(str(value), map(str, action.choices or ()))
            if not meant:
                raise
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{meant}") from error

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Called by argparse with each word that stands for a value: an unset shell variable is none."""
        is_command = isinstance(action, argparse._SubParsersAction)  # whose values are all that follows it
        if arg_string == "" and not is_command and action.dest not in MAY_BE_EMPTY:
            name = str(action.metavar or action.dest)
            raise argparse.ArgumentError(action, f"is empty, expected {name} (is a shell variable unset?)")
        if action.type in NUMBERS:  # argparse would say "invalid int value"
            number: Any = action.type
            try:
                return number(arg_string)
            except ValueError:
                message = f"{arg_string!r} is not {NUMBERS[action.type]}"
                raise argparse.ArgumentError(action, message) from None
        return super()._get_value(action, arg_string)


def _is_known(word: str, flags: Iterable[str]) -> bool:
    """Whether a word is a flag or the beginning of one, perhaps with a value behind =."""
    return word == "--" or any(flag.startswith(word.partition("=")[0]) for flag in flags)


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
    parser: argparse.ArgumentParser,
    defaults: Config | Training,
    preset: str | None,
    without: Sequence[str] = (),
    **shown: str,
) -> None:
    """Add a flag for every field of Config or Training; the result has only those that were given.

    defaults: the fields of the preset that the help speaks of, or of no preset. without: fields that are no
    flags. shown: other texts for a field's default.
    """
    kind = "model" if isinstance(defaults, Config) else "training"
    of_preset = (
        f"each changes a field of the preset; the defaults are {preset}'s, numgpt info NAME shows another's"
    )
    group = parser.add_argument_group(kind, of_preset if preset else None)
    for field in dataclasses.fields(defaults):
        if field.name in without:
            continue
        types = typing.get_args(field.type) or (field.type,)
        choices = field.metadata["choices"]
        if choices is not None and len(choices) == 1:
            continue  # what can be chosen in one way only is no flag
        options: dict[str, Any] = {"type": types[0], "choices": choices}
        if types[0] is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif typing.get_origin(types[0]):
            options = {"type": json_value, "metavar": "JSON"}
        elif not choices:
            options["metavar"] = METAVARS[types[0]]
        help = field.metadata["help"]
        if choices and len(",".join(map(str, choices))) > LONGEST_CHOICES:  # wider than a page of help
            options["metavar"] = "NAME"
            help = f"{help}: {', '.join(map(str, choices))}"
        value = getattr(defaults, field.name)
        add(
            group,
            "--" + field.name.replace("_", "-"),
            dest=field.name,
            help=help,
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


def add_checkpoint(parser: Flags, shown: str = "the newest run under runs/") -> None:
    """Add the checkpoint that a command reads; shown says what it reads without one."""
    add(
        parser,
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT",
        help="a checkpoint, a run, or numgpt:austen or numgpt:tiny, which ship",
        shown=shown,
    )


def add_data(parser: Flags, default: str) -> None:
    """Add the text that a command reads; default says what it reads without one."""
    add(
        parser,
        "--data",
        nargs="+",
        metavar="PATH",
        help=TEXTS,
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


def length(args: argparse.Namespace, config: Config) -> int:
    """Tokens a sequence: --tokens, or block_size; InputError for more than learned positions reach."""
    T: int = args.tokens or config.block_size
    if config.block_size < T and config.positions == "learned":  # computed positions have no end
        raise InputError(f"{args.command}: --tokens is {T}, expected 1 to block_size {config.block_size}")
    return T


def add_time_limit(parser: Flags) -> None:
    """Add the time after which a run stops."""
    add(
        parser,
        "--time-limit",
        type=duration,
        metavar="TIME",
        help="stop after the step in which this time passes, such as 90s, 10m or 1.5h; --resume goes on",
        shown="none",
    )


def shape(text: str) -> tuple[int, ...]:
    """A shape such as 3x5, for argparse."""
    sizes = text.replace(",", "x").split("x")
    if not all(size.isascii() and size.isdigit() for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape, expected sizes such as 3x5")
    return tuple(map(int, sizes))


def numbers(text: str) -> tuple[int, ...]:
    """Numbers between commas, for argparse."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, expected one such as 0,2")
    return tuple(map(int, parts))


def json_value(text: str) -> Any:
    """A list or a mapping in JSON, for argparse."""
    try:
        value = parse_json(text.encode(), "the flag")
    except (InputError, UnicodeEncodeError):
        value = None
    if not isinstance(value, list | dict):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not JSON, expected a list or a mapping such as \'{{"kind": "linear"}}\''
        )
    return frozen(value)


def count(text: str) -> int:
    """An integer of 0 or more, for argparse."""
    return _at_least(0, text)


def positive(text: str) -> int:
    """An integer of 1 or more, for argparse."""
    return _at_least(1, text)


def duration(text: str) -> float:
    """A time in seconds, for argparse: 90, 90s, 10m, 1.5h."""
    match = DURATION.fullmatch(text)
    seconds = float(match["number"]) * SECONDS[match["unit"]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time, expected one such as 90s, 10m or 1.5h")
    return seconds


def _at_least(smallest: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer, expected {smallest} or more") from None
    if value < smallest:
        raise argparse.ArgumentTypeError(f"is {text}, expected {smallest} or more")
    return value


def by_flag(message: str, args: argparse.Namespace) -> str:
    """A message of the package as whoever typed a command reads it: an argument is called by its flag.

    That is done only where the flag was given: otherwise the value came from elsewhere, such as a file.
    """
    match = OF_ARGUMENT.match(message)
    actions = getattr(args, "parser", argparse.ArgumentParser())._actions
    for action in actions:
        if match is None or action.dest != match["name"] or not action.option_strings:
            continue
        if getattr(args, action.dest, action.default) != action.default:
            command = " ".join(filter(None, (args.command, getattr(args, "action", None))))
            rest = message[match.end() :].removesuffix(", or None")  # which no flag can say
            return f"{command}: {action.option_strings[-1]} {rest}"
    return message
