"""numgpt tune: make a model answer, sort texts, judge answers, or give better ones."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from ..architecture.tunings import COMMON, TUNINGS
from ..data.chat_templates import TEMPLATES
from ..errors import InputError
from . import flags, reinforcement_flags, runs, several, tuning_runs
from .printing import say

HELP = "Tune a model: on conversations, texts with labels, preferences, or rewards of its own answers."
EXAMPLE = "numgpt tune sft runs/1 --data chats.jsonl --template plain --out tuned"

CONVERSATIONS = (
    "JSON, an object a line: messages (OpenAI's), conversations (ShareGPT's), prompt and completion, or"
    " instruction, input and output (Alpaca's)"
)
PREFERENCES = "JSON, an object a line: prompt, chosen and rejected, or prompt and ranked, the best first"
VERDICTS = (
    "JSON, an object a line: prompt, completion and label, true or false; or prompt, chosen and rejected, a"
    " good response and a bad one"
)
TABLES = "tables with a header (CSV, or TSV by its ending), or JSON, an object a line"
SAMPLE_TOKENS = 64
PARALLEL = "data, each with some of a step's batches"
# What a message advises → the name of the flag that does it, and what is to be typed.
ADVISED = {
    "truncate=True": ("truncate", "--truncate"),
    "numbers=True": ("numbers", "--numbers"),
    "lower max_new_tokens": ("max_new_tokens", "lower --max-new-tokens"),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The actions of numgpt tune, each with its own flags."""
    parser.set_defaults(print_help=parser.print_help, engine=None, threads=None, tf32=False)
    parsers = parser.add_subparsers(
        title="actions",
        dest="action",
        metavar="ACTION",
        help="numgpt tune ACTION --help lists its flags, with an example",
    )
    for name, action in ACTIONS.items():
        command = parsers.add_parser(name, help=action.help)
        command.set_defaults(parser=command)
        _add_run(command, action.files, action.flag)
        action.add_flags(command)
        _add_adapter(command)
        _add_training(command, name)
        flags.add_engine(command)
        flags.describe(command, action.help, f"numgpt tune {name} {action.example}")


def run(args: argparse.Namespace) -> int:
    """Tune; 1 where the loss is no longer finite, 130 where somebody stopped the run."""
    if args.action is None:
        args.print_help()
        return 0
    several.expect_data_alone(args)
    with runs.hold_folder(args) as out:
        is_begun = several.by_first(args, lambda: str(runs.is_begun(out, args))) == "True"
        if args.resume and not is_begun:
            say(f"numgpt: {out} holds no run to resume: a new one begins")
        try:
            tuning = tuning_runs.resumed(args, out) if is_begun else tuning_runs.begun(args, out)
        except InputError as error:
            raise InputError(_by_switch(str(error), args)) from error
        return tuning_runs.tuned(tuning, args, is_begun)


def _by_switch(message: str, args: argparse.Namespace) -> str:
    """A message that advises an argument of a function, as whoever typed a command reads it."""
    for advised, (name, typed) in ADVISED.items():
        if hasattr(args, name):
            message = message.replace(advised, typed)
    for name, dest in tuning_runs.DESTS.items():
        if hasattr(args, dest):
            message = re.sub(rf"^(\w+: ){name} (?=is )", rf"\1{dest} ", message)
    return message


def _add_run(parser: argparse.ArgumentParser, files: str, flag: str) -> None:
    """What is tuned, on what, and where to."""
    flags.add(
        parser, "model", nargs="?", metavar="MODEL", help=flags.MODEL, shown="with --resume the run's own"
    )
    flags.add(
        parser,
        flag,
        dest="data",
        nargs="+",
        metavar="FILE",
        help=files,
        shown="with --resume the run's own",
    )
    flags.add(parser, "--out", metavar="DIR", help="the run's folder", shown="runs/1, runs/2, …")
    flags.add(
        parser,
        "--resume",
        action="store_true",
        help=(
            "continue the run in --out, or the newest run under runs/; it keeps its settings. With MODEL,"
            f" {flag} and --out a run begins where there is none"
        ),
    )
    flags.add(
        parser,
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of the examples to hold out, drawn at random; 0 measures nothing",
        shown=COMMON["held_out"],
    )
    flags.add(
        parser,
        "--dtype",
        choices=flags.DTYPES,
        help="precision of parameters and computation",
        shown="the model's",
    )
    flags.add_time_limit(parser)
    several.add_flag(parser, PARALLEL)


def add_template(parser: argparse.ArgumentParser) -> None:
    """What stands around each message."""
    flags.add(
        parser,
        "--template",
        metavar="NAME",
        help=(
            f"what stands around each message: {', '.join(TEMPLATES)}; or the path of a"
            " tokenizer_config.json, its folder or a .jinja file. Special tokens that it needs are added to"
            " the vocabulary"
        ),
        shown="the model's own, else plain",
    )


def _add_samples(parser: argparse.ArgumentParser) -> None:
    flags.add(
        parser,
        "--sample-every",
        type=flags.positive,
        metavar="N",
        help="answer some held-out prompts every N steps",
        shown="at the end alone",
    )
    flags.add(
        parser,
        "--sample-tokens",
        type=flags.count,
        metavar="N",
        help="how many tokens an answer may have; 0 writes none",
        default=SAMPLE_TOKENS,
    )


def _add_adapter(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("adapter")
    flags.add(
        group,
        "--lora",
        type=flags.positive,
        metavar="R",
        help=(
            "train adapters of rank R beside the matrices, which stay (LoRA); the learning rate is 6 times as"
            " large unless --lr is given"
        ),
        shown="train the whole model",
    )
    flags.add(
        group,
        "--lora-alpha",
        type=float,
        metavar="X",
        help="the adapters' weight, which is divided by R",
        shown="2 R",
    )
    flags.add(
        group,
        "--lora-targets",
        nargs="+",
        metavar="PATTERN",
        help="patterns of the matrices that have one, in quotes",
        shown=" ".join(f"'{pattern}'" for pattern in COMMON["lora_targets"]),
    )
    add_switch(group, "--rslora", "rslora", True, "divide alpha by the square root of R")


def add_switch(parser: flags.Flags, flag: str, dest: str, value: bool, help: str) -> None:
    """A flag without a value; None where it is not given, so that a resumed run keeps its own."""
    flags.add(parser, flag, dest=dest, action="store_const", const=value, help=help)


def _add_truncate(parser: argparse.ArgumentParser, what: str) -> None:
    add_switch(parser, "--truncate", "truncate", True, f"cut the ends of {what} that are too long")


def _add_training(parser: argparse.ArgumentParser, kind: str) -> None:
    """The fields of Training, and how long it lasts."""
    epochs = TUNINGS[kind].epochs
    without = ["balance_loss", "router_z_loss", "label_smoothing", "z_loss", "documents"]
    # all of pre-training alone
    shown = {"steps": f"as many as make {epochs:g} epochs", "warmup": "20, or a tenth of few steps"}
    if TUNINGS[kind].samples:
        without += ["steps", "eval_iters"]  # which --iterations and --held-out say
        # Responses are sampled from what is trained: the chances of both must be the same numbers.
        without += ["precision", "masters", "emulate_precision"]
        usual = TUNINGS[kind].training
        shown["batch_size"] = f"{usual.batch_size} prompts"
        shown["eval_interval"] = f"{usual.eval_interval}, of the held-out reward"
    else:
        flags.add(
            parser,
            "--epochs",
            type=float,
            metavar="X",
            help="how often each example is met, in the place of --steps",
            shown=epochs,
        )
    flags.add_fields(parser, TUNINGS[kind].training, None, without, **shown)


def _add_sft(parser: argparse.ArgumentParser) -> None:
    add_template(parser)
    _add_samples(parser)
    options = TUNINGS["sft"].options
    add_switch(parser, "--no-pack", "pack", False, "one example a row, with padding behind it")
    _add_truncate(parser, "responses")
    flags.add(
        parser,
        "--reduction",
        choices=("token", "sequence"),
        help="what weighs the same: each token, or each response",
        shown=options["reduction"],
    )
    flags.add(
        parser,
        "--smoothing",
        type=float,
        metavar="SHARE",
        help="the share of each target that all tokens get alike",
        shown=options["smoothing"],
    )


def _add_pool(parser: argparse.ArgumentParser) -> None:
    flags.add(
        parser,
        "--pool",
        choices=("last", "mean"),
        help="what the head reads of a text: its last token, or the mean of all",
        shown="last",
    )


def _add_classify(parser: argparse.ArgumentParser) -> None:
    more = TUNINGS["classify"].more
    for name, what in (("text", "texts"), ("label", "labels")):
        flags.add(
            parser,
            f"--{name}",
            dest=f"{name}_column",
            metavar="NAME",
            help=f"the column, or field, of the {what}",
            shown=more[name],
        )
    add_switch(parser, "--numbers", "numbers", True, "labels are numbers, to be fitted, not classes")
    _add_pool(parser)
    _add_truncate(parser, "texts")
    flags.add(
        parser,
        "--text-weight",
        type=float,
        metavar="X",
        help="weight of the surprise at the text itself, which is added (GPT-1's second objective)",
        shown=TUNINGS["classify"].options["text_weight"],
    )


def _add_reward(parser: argparse.ArgumentParser) -> None:
    add_template(parser)
    _add_pool(parser)
    _add_truncate(parser, "texts")


def _add_dpo(parser: argparse.ArgumentParser) -> None:
    add_template(parser)
    _add_samples(parser)
    _add_truncate(parser, "responses")
    options = TUNINGS["dpo"].options
    flags.add(
        parser,
        "--loss",
        choices=("dpo", "ipo"),
        help="dpo: a surprise at which one is better; ipo: a squared distance from a margin",
        shown=options["loss"],
    )
    for name, metavar, help in (
        ("beta", "X", "how far the model may move from where it began: less for larger ones"),
        ("label_noise", "SHARE", "the share of pairs that are the wrong way round, of dpo alone"),
        (
            "chosen_nll",
            "X",
            "weight of the better responses' surprise, a token, which is added: without it both responses may"
            " become less likely, and samples break",
        ),
    ):
        flag = f"--{name.replace('_', '-')}"
        flags.add(parser, flag, type=float, metavar=metavar, help=help, shown=options[name])


def _add_rewarded(kind: str, parser: argparse.ArgumentParser) -> None:
    add_template(parser)
    if kind == "ppo":
        reinforcement_flags.add_ppo(parser)
    else:
        reinforcement_flags.add_groups(parser, kind)


def _add_kto(parser: argparse.ArgumentParser) -> None:
    add_template(parser)
    _add_samples(parser)
    _add_truncate(parser, "responses")
    options = TUNINGS["kto"].options
    for name, help in (
        ("beta", "how far the model may move from where it began: less for larger ones"),
        ("desirable_weight", "the weight of responses that are good"),
        ("undesirable_weight", "the weight of responses that are bad"),
    ):
        flag = f"--{name.replace('_', '-')}"
        flags.add(parser, flag, type=float, metavar="X", help=help, shown=options[name])


class Action(NamedTuple):
    """One action of numgpt tune."""

    help: str
    example: str  # what follows numgpt tune NAME
    files: str  # what --data takes
    add_flags: Callable[[argparse.ArgumentParser], None]
    flag: str = "--data"


ACTIONS = {
    "sft": Action(
        "Learn to write the responses of conversations.",
        "runs/1 --data chats.jsonl --template plain --epochs 2 --out tuned",
        CONVERSATIONS,
        _add_sft,
    ),
    "classify": Action(
        "Learn the classes of texts, or numbers.",
        "runs/1 --data reviews.csv --text review --label verdict --out classifier",
        TABLES,
        _add_classify,
    ),
    "reward": Action(
        "Learn a number for a text that is larger for the better one of two.",
        "tuned --data pairs.jsonl --out reward",
        PREFERENCES,
        _add_reward,
    ),
    "dpo": Action(
        "Learn from preferences alone, without a reward model.",
        "tuned --data pairs.jsonl --beta 0.1 --chosen-nll 1 --out preferred",
        PREFERENCES,
        _add_dpo,
    ),
    "grpo": Action(
        "Learn from rewards of sampled responses: each is compared with others to its prompt (GRPO).",
        "tuned --prompts sums.jsonl --reward right.py:reward --group 8 --out rewarded",
        reinforcement_flags.PROMPTS,
        functools.partial(_add_rewarded, "grpo"),
        "--prompts",
    ),
    "rloo": Action(
        "Learn from rewards of sampled responses: each is compared with the mean of the others (RLOO).",
        "tuned --prompts sums.jsonl --reward reward --out rewarded",
        reinforcement_flags.PROMPTS,
        functools.partial(_add_rewarded, "rloo"),
        "--prompts",
    ),
    "ppo": Action(
        "Learn from rewards of sampled responses: a critic tells which tokens earned them (PPO).",
        "tuned --prompts sums.jsonl --reward reward --out rewarded",
        reinforcement_flags.PROMPTS,
        functools.partial(_add_rewarded, "ppo"),
        "--prompts",
    ),
    "kto": Action(
        "Learn from single responses that were called good or bad (KTO).",
        "tuned --data verdicts.jsonl --beta 0.1 --out preferred",
        VERDICTS,
        _add_kto,
    ),
}
