"""The table of subcommands, from which both the parser and the dispatch are made."""

from __future__ import annotations

import argparse
from types import ModuleType

from .._version import __version__
from . import (
    chat,
    check,
    convert,
    curvature,
    diff,
    doctor,
    evaluate,
    explain,
    explore,
    export,
    info,
    inspect,
    learn,
    list_runs,
    plot,
    predict,
    profile,
    prune,
    quantize,
    sample,
    tokenizer,
    train,
    tune,
    verify,
)
from .flags import HelpFormatter, Parser, describe

# The name on the command line → the module with its HELP, EXAMPLE, add_flags(parser) and run(args), in the
# order of numgpt --help. What is heavy these modules import inside run: whoever asks for help waits for none.
COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "tune": tune,
    "chat": chat,
    "sample": sample,
    "eval": evaluate,
    "predict": predict,
    "check": check,
    "verify": verify,
    "diff": diff,
    "curvature": curvature,
    "learn": learn,
    "explain": explain,
    "explore": explore,
    "runs": list_runs,
    "plot": plot,
    "inspect": inspect,
    "tokenizer": tokenizer,
    "convert": convert,
    "quantize": quantize,
    "prune": prune,
    "export": export,
    "info": info,
    "profile": profile,
    "doctor": doctor,
}


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; its result has run, the function to call with it."""
    whole = Parser(
        prog="numgpt",
        description="A GPT in pure NumPy: train, sample, evaluate, and check every gradient.",
        formatter_class=HelpFormatter,
    )
    whole.set_defaults(run=lambda args: _help(whole), engine=None, threads=None, tf32=False)
    whole.add_argument("--version", action="version", version=f"numgpt {__version__}")
    parsers = whole.add_subparsers(
        title="commands",
        dest="command",
        metavar="COMMAND",
        help="numgpt COMMAND --help lists its flags, with an example",
    )
    for name, module in COMMANDS.items():
        command = parsers.add_parser(name, help=module.HELP)
        command.set_defaults(run=module.run, parser=command)
        module.add_flags(command)
        describe(command, module.HELP, module.EXAMPLE)
    return whole


def _help(whole: argparse.ArgumentParser) -> int:
    """What numgpt alone does: print the commands."""
    whole.print_help()
    return 0
