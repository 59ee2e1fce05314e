"""The command line's flags, one parser a command."""

import argparse
import dataclasses
import typing

from .._version import __version__
from ..architecture import presets
from ..architecture.config import Config, Training
from ..data.split import SPLITS
from ..engine import ENGINES
from ..errors import InputError
from ..tokenizers.patterns import PATTERNS
from ..tokenizers.show import COLORS
from ..tokenizers.tokenizer import ERRORS, POLICIES


def parser(commands):
    """All commands and their flags; commands is a mapping from name to what runs it."""
    whole = _Parser(
        prog="numgpt", description="A GPT in pure NumPy: train, sample, evaluate, and check every gradient."
    )
    whole.add_argument("--version", action="version", version=f"numgpt {__version__}")
    parsers = whole.add_subparsers(dest="command", required=True, metavar=" | ".join(commands))

    def command(name, help, example):
        p = parsers.add_parser(
            name,
            help=help,
            description=help,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=commands[name])
        p.add_argument(
            "--engine",
            metavar="NAME",
            help=(
                f"what runs the ops: {', '.join(ENGINES)}; reference is the specification in NumPy, numba is"
                " faster, cupy computes on an NVIDIA GPU"
            ),
        )
        p.add_argument(
            "--tf32",
            action="store_true",
            help="let the cupy engine round the factors of float32 products to 10 bits: faster, less exact",
        )
        p.add_argument(
            "--threads", type=_positive, metavar="N", help="of the numba engine; all processors unless given"
        )
        return p

    p = command(
        "train",
        "Train a GPT and write some text with it.",
        "numgpt train --data FILE --preset gpt-nano --n-layer 2 --steps 200 --seed 1 --out DIR",
    )
    p.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="UTF-8 text files, or folders of .txt and .md files; Python's language reference unless given",
    )
    p.add_argument(
        "--preset",
        metavar="NAME",
        help=f"a named model: {', '.join(presets.MODELS)}; {presets.DEFAULT} unless given",
    )
    p.add_argument("--out", metavar="DIR", help="the run's folder; runs/1, runs/2, … unless given")
    p.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, or with the newest under runs/"
    )
    p.add_argument(
        "--tokenizer",
        metavar="NAME",
        help=(
            "chars or bytes: a token for each; bpe:2048 or bpe:2048:cl100k: so many tokens of byte pairs,"
            " learned from the training text, cut by a pattern; unigram:2048: SentencePiece's; or a"
            " tokenizer's file or folder; chars unless given"
        ),
    )
    _add_special(p, "text")
    p.add_argument(
        "--token-folder",
        metavar="DIR",
        help=(
            "where the tokens of a large text are kept, for several runs to share; in the run's folder unless"
            " given"
        ),
    )
    p.add_argument(
        "--dtype", choices=("float32", "float64"), help="of parameters and computation; float32 unless given"
    )
    p.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="the share of the text that is not trained on; 0.1 unless given",
    )
    p.add_argument(
        "--split",
        choices=SPLITS,
        help="what is held out: blocks from the whole text, or its end; blocks unless given",
    )
    p.add_argument(
        "--dedup",
        action=argparse.BooleanOptionalAction,
        help="drop paragraphs that came before in the text; yes unless given",
    )
    p.add_argument(
        "--sample-tokens",
        type=_count,
        default=300,
        metavar="N",
        help="tokens to write at the end; %(default)s",
    )
    _add_fields(p.add_argument_group("model, instead of the preset's"), Config)
    _add_fields(p.add_argument_group("training, instead of the preset's"), Training)

    p = command(
        "sample",
        "Write text with a trained model.",
        "numgpt sample runs/1 --prompt 'The ' --temperature 0.8 --top-k 20 --num-samples 3",
    )
    _add_checkpoint(p)
    p.add_argument("--prompt", help="text to continue; a line break unless given")
    _add_special(p, "prompt", default="refuse")
    p.add_argument("--max-new-tokens", type=_count, default=300, metavar="N", help="%(default)s unless given")
    p.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="below 1 bolder in the likely, above 1 in the unlikely; 0 is greedy; %(default)s",
    )
    p.add_argument("--top-k", type=int, metavar="K", help="choose among the K most probable tokens")
    p.add_argument(
        "--top-p", type=float, metavar="P", help="choose among the fewest tokens whose probabilities reach P"
    )
    p.add_argument("--greedy", action="store_true", help="always the most probable token")
    p.add_argument(
        "--num-samples", type=_positive, default=1, metavar="N", help="how many texts at once; %(default)s"
    )
    p.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given several times; \\n is a line break",
    )
    p.add_argument("--seed", type=int, default=0, help="%(default)s unless given")
    p.add_argument(
        "--slide",
        type=int,
        default=1,
        metavar="N",
        help="tokens that leave at once past the context length: more is faster; %(default)s",
    )

    p = command(
        "eval",
        "Loss, perplexity and bits per byte of a text under a model.",
        "numgpt eval runs/1 --data FILE --stride 32",
    )
    _add_checkpoint(p)
    p.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="UTF-8 text files or folders; what the run held out of its own text unless given",
    )
    _add_special(p, "text of --data", default="refuse")
    p.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="how far each window advances; half the context length unless given",
    )
    p.add_argument(
        "--batch-size", type=_positive, default=8, metavar="N", help="windows at once; %(default)s"
    )

    p = command(
        "check",
        "Hold every op, layer and model variant to the laws of its derivative.",
        "numgpt check layernorm 'model GPT-2' --draws 5",
    )
    p.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=(
            "only subjects whose name contains this; or FILE.py:NAME, a pair of your own, for which --shapes"
            " says of what"
        ),
    )
    p.add_argument(
        "--shapes",
        nargs="+",
        type=_shape,
        metavar="3x5",
        help="of the arrays of a pair of your own, random floats",
    )
    p.add_argument("--seed", type=_count, default=0, help="of the drawn sizes and values; %(default)s")
    p.add_argument(
        "--draws",
        type=_positive,
        default=1,
        metavar="N",
        help="how many times each, with other sizes and values; %(default)s",
    )
    p.add_argument(
        "--strength",
        action="store_true",
        help=(
            "check the check: plant wrong gradients, on the reference engine, and report the share that the"
            " laws catch"
        ),
    )

    _add_tokenizer(parsers, commands["tokenizer"])

    p = command(
        "convert",
        "Write a model in another layout or dtype: transformers' GPT-2 from numgpt's checkpoint, or the other"
        " way.",
        "numgpt convert runs/1 exported --to hf",
    )
    p.add_argument(
        "source",
        help="a checkpoint, a run, a folder of transformers, or hf: and a name on the Hugging Face hub",
    )
    p.add_argument("destination", help="the folder to write")
    p.add_argument("--to", choices=("numgpt", "hf"), default="numgpt", help="%(default)s unless given")
    p.add_argument("--dtype", choices=("float32", "float64"), help="the source's own unless given")

    p = command(
        "export",
        "Write what a port in another language is checked with: llm.c's model, debug state, tokens and"
        " tokenizer.",
        "numgpt export files gpt2 --llmc --n-layer 2 --n-embd 32 --n-head 2 --vocab-size 300 --block-size 16",
    )
    p.add_argument(
        "folder",
        help=(
            "where to write model.bin, debug_state.bin, tokens.bin and, if the model has a tokenizer,"
            " tokenizer.bin"
        ),
    )
    p.add_argument(
        "model", nargs="?", default="gpt2", help="a preset or a checkpoint; %(default)s unless given"
    )
    p.add_argument(
        "--llmc",
        action="store_true",
        required=True,
        help="the files of llm.c, of which each begins with 256 integers",
    )
    p.add_argument(
        "--seed", type=_count, default=0, help="of a preset's parameters, and of the tokens; %(default)s"
    )
    p.add_argument(
        "--batch-size",
        type=_positive,
        default=4,
        metavar="B",
        help="sequences of the debug state; %(default)s",
    )
    p.add_argument(
        "--tokens", type=_positive, metavar="T", help="tokens a sequence; 64, or block_size where it is less"
    )
    _add_fields(p.add_argument_group("model, instead of the preset's"), Config)

    p = command(
        "verify",
        "Every op, layer and model variant against PyTorch, ten steps of AdamW, and whose float32 is closer"
        " to the truth.",
        "numgpt verify --html parity.html",
    )
    p.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="only what has this in its name, such as layernorm, GPT-2 or truth; all unless given",
    )
    p.add_argument("--seed", type=_count, default=0, help="of the arrays; %(default)s")
    p.add_argument(
        "--seeds",
        type=_positive,
        default=16,
        metavar="N",
        help="training steps over which errors in ulps are averaged; %(default)s",
    )
    p.add_argument("--html", metavar="FILE", help="write a page with the tables, to be handed on")

    p = command(
        "diff",
        "The first value or gradient at which two models part beyond rounding, and the likely cause.",
        "numgpt diff runs/1 exported",
    )
    p.add_argument(
        "a",
        help=(
            "a checkpoint, a run, a folder of transformers, hf: and a name on the hub, a model of llm.c, or"
            " FILE.py:NAME"
        ),
    )
    p.add_argument(
        "b",
        help=(
            "the same, or a debug state of llm.c, or FILE.py:NAME: a PyTorch module, or a function that"
            " makes one"
        ),
    )
    p.add_argument(
        "--names",
        metavar="FILE",
        help=(
            "JSON that maps numgpt's names to the module's, for one that is not named as nanoGPT, minGPT or"
            " transformers are"
        ),
    )
    p.add_argument("--all", action="store_true", help="a line for every parameter, value and gradient")
    p.add_argument(
        "--dtype", choices=("float32", "float64"), default="float64", help="in which both run; %(default)s"
    )
    p.add_argument(
        "--batch-size", type=_positive, default=2, metavar="B", help="sequences of random tokens; %(default)s"
    )
    p.add_argument(
        "--tokens", type=_positive, metavar="T", help="tokens a sequence; 16, or block_size where it is less"
    )
    p.add_argument("--seed", type=_count, default=0, help="of the tokens; %(default)s")

    p = command(
        "curvature",
        "How the loss bends at a checkpoint, exactly: gradients by row, noise scale, curvature, eigenvalues"
        " of the Hessian.",
        "numgpt curvature runs/1 --data FILE --eigenvalues 3",
    )
    p.add_argument(
        "checkpoint",
        help="a checkpoint, a run, a folder of transformers, or hf: and a name on the Hugging Face hub",
    )
    p.add_argument(
        "--data", nargs="+", metavar="PATH", help="UTF-8 text files or folders; random tokens unless given"
    )
    _add_special(p, "text", default="refuse")
    p.add_argument("--batch-size", type=_positive, default=8, metavar="B", help="rows; %(default)s")
    p.add_argument(
        "--tokens", type=_positive, metavar="T", help="tokens a row; 64, or block_size where it is less"
    )
    p.add_argument(
        "--eigenvalues", type=_count, default=1, metavar="K", help="how many of the largest; %(default)s"
    )
    p.add_argument(
        "--operator",
        choices=("hessian", "gauss_newton"),
        default="hessian",
        help="whose eigenvalues; %(default)s",
    )
    p.add_argument(
        "--solver",
        choices=("lanczos", "scipy"),
        default="lanczos",
        help="lanczos keeps a vector a step, scipy a few; %(default)s",
    )
    p.add_argument(
        "--steps",
        type=_positive,
        default=40,
        metavar="N",
        help="of the solver at most: the bounds tell whether they were enough; %(default)s",
    )
    p.add_argument(
        "--seed", type=_count, default=0, help="of the rows and of the solver's start; %(default)s"
    )

    p = command(
        "info",
        "Parameters, bytes and FLOPs of a model, counted without allocating it.",
        "numgpt info gpt3-175b --batch-size 1",
    )
    p.add_argument(
        "model",
        nargs="?",
        default=presets.DEFAULT,
        help=f"a preset or a checkpoint: {', '.join(presets.MODELS)}; %(default)s unless given",
    )
    p.add_argument(
        "--batch-size", type=_positive, default=1, metavar="B", help="sequences a step; %(default)s"
    )
    p.add_argument("--tokens", type=_positive, metavar="T", help="tokens a sequence; block_size unless given")
    p.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="%(default)s unless given"
    )
    _add_fields(p.add_argument_group("model, instead of the preset's"), Config)
    return whole


def _add_tokenizer(parsers, run):
    """numgpt tokenizer and the actions under it."""
    help = "Train a tokenizer, encode, decode, and show how a text is cut."
    whole = parsers.add_parser(
        "tokenizer",
        help=help,
        description=help,
        epilog="example: numgpt tokenizer show bytes 'naïve café'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.set_defaults(run=run, print_help=whole.print_help, engine=None, threads=None, tf32=False)
    actions = whole.add_subparsers(
        dest="action", parser_class=_Action, metavar=" | ".join(("train", "encode", "decode", "show"))
    )

    def action(name, help, example):
        p = actions.add_parser(
            name,
            help=help,
            description=help,
            epilog=f"example: numgpt tokenizer {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.add_argument(
            "--engine",
            metavar="NAME",
            help=(
                f"what runs the hot loops: {', '.join(ENGINES)}; reference is the specification, numba is"
                " faster"
            ),
        )
        p.add_argument(
            "--threads", type=_positive, metavar="N", help="of the numba engine; all processors unless given"
        )
        return p

    def reads_text(p):
        p.add_argument("text", nargs="?", metavar="TEXT", help="the text; stdin unless it or --file is given")
        p.add_argument(
            "--file",
            metavar="FILE",
            help="read the text from it, every byte as it is: no line break is changed; - is stdin",
        )
        p.add_argument(
            "--bytes",
            action="store_true",
            help="the text may be any bytes; without it what is not UTF-8 is an error",
        )
        _add_special(p, "text", default="refuse")

    def names_tokenizer(p):
        p.add_argument(
            "tokenizer",
            metavar="TOKENIZER",
            help=(
                "a tokenizer's file or folder (numgpt's, transformers', GPT-2's, tiktoken's,"
                " SentencePiece's), a checkpoint, a run, or bytes or chars"
            ),
        )
        p.add_argument(
            "--pattern",
            metavar="NAME",
            help=(
                "how text is cut, for tiktoken's and GPT-2's files, which do not say it:"
                f" {', '.join(PATTERNS)}, or a regular expression"
            ),
        )
        p.add_argument(
            "--special-token",
            action="append",
            metavar="TEXT=ID",
            help=(
                "for the same files, a token that no other text becomes, such as '<|endoftext|>=50256'; may"
                " be given several times"
            ),
        )

    p = action("train", "Learn a vocabulary from text.", "FILE --vocab-size 2048 --out tok.json")
    p.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="UTF-8 text files, or folders of .txt and .md files; Python's language reference unless given",
    )
    p.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="the file to write, or for gpt2 the folder; what is there is replaced",
    )
    p.add_argument(
        "--vocab-size",
        type=_positive,
        default=8192,
        metavar="V",
        help="tokens in all: bytes, merges and special tokens; %(default)s unless given",
    )
    p.add_argument(
        "--kind",
        choices=("bpe", "unigram"),
        default="bpe",
        help=(
            "byte-pair encoding, or SentencePiece's unigram model, which the sentencepiece package trains;"
            " %(default)s"
        ),
    )
    p.add_argument(
        "--pattern",
        metavar="NAME",
        help=(
            f"what cuts the text into pieces that no token reaches over: {', '.join(PATTERNS)}, or a regular"
            " expression; gpt2 unless given"
        ),
    )
    p.add_argument(
        "--special-token",
        action="append",
        default=[],
        metavar="TEXT",
        help="one that no other text becomes, such as '<|endoftext|>'; may be given several times",
    )
    p.add_argument(
        "--min-frequency",
        type=_positive,
        metavar="N",
        help="how often a pair must occur to be joined; 2 unless given",
    )
    p.add_argument(
        "--format",
        choices=("numgpt", "huggingface", "gpt2", "tiktoken"),
        default="numgpt",
        help=(
            "%(default)s, tokenizer.json of Hugging Face, vocab.json and merges.txt in a folder, or .tiktoken"
        ),
    )

    p = action("encode", "The ids of a text, on one line.", "tok.json 'Hello world'")
    names_tokenizer(p)
    reads_text(p)
    p.add_argument("--count", action="store_true", help="only how many bytes and tokens, and bytes per token")
    p.add_argument(
        "--out",
        metavar="FILE",
        help="write the ids to a .npy, or as integers of 2 bytes (4 from 65,537 tokens on) to a .bin",
    )

    p = action(
        "decode",
        "The text of ids, exactly: nothing is added at its end but on a terminal.",
        "tok.json 15496 995",
    )
    names_tokenizer(p)
    p.add_argument("ids", nargs="*", metavar="ID", help="integers; stdin unless they or --file are given")
    p.add_argument(
        "--file", metavar="FILE", help="ids as text, or a .npy or .bin as encode --out writes it; - is stdin"
    )
    p.add_argument(
        "--errors",
        choices=ERRORS,
        default="replace",
        help="what shows where bytes are not UTF-8; %(default)s",
    )
    p.add_argument("--bytes", action="store_true", help="the bytes as they are, whether UTF-8 or not")

    p = action(
        "show",
        "How a text is cut: each token, its id below, and how many bytes a token has.",
        "tok.json 'Hello world'",
    )
    names_tokenizer(p)
    reads_text(p)
    p.add_argument(
        "--color",
        choices=COLORS,
        default="auto",
        help="auto: where a terminal has it, and neither NO_COLOR nor TERM=dumb says no; %(default)s",
    )
    p.add_argument(
        "--width", type=_positive, metavar="N", help="columns of a line; the terminal's unless given"
    )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with status 2."""

    def error(self, message):
        """What argparse calls with its message."""
        raise InputError(f"{message}; expected flags as in: {self.prog} --help")


class _Action(_Parser):
    """Takes its last positional after flags too, as in: show TOKENIZER --color never TEXT."""

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, which up to Python 3.12 looks for an optional positional only where the one
        before it stands.
        """
        namespace, rest = super().parse_known_args(args, namespace)
        last = [a for a in self._actions if not a.option_strings][-1]
        if rest and not getattr(namespace, last.dest) and not (rest[0].startswith("-") and rest[0] != "--"):
            words = rest[rest[0] == "--" :]
            if last.nargs == "*":
                setattr(namespace, last.dest, words)
                return namespace, []
            if len(words) == 1:
                setattr(namespace, last.dest, words[0])
                return namespace, []
        return namespace, rest


def _add_fields(parser, settings):
    """A flag for every field of a dataclass; absent from the result unless given."""
    for f in dataclasses.fields(settings):
        flag, kinds = "--" + f.name.replace("_", "-"), typing.get_args(f.type) or (f.type,)
        options = {
            "dest": f.name,
            "default": argparse.SUPPRESS,
            "help": f.metadata["help"].replace("%", "%%"),
        }
        if kinds[0] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            parser.add_argument(
                flag,
                type=kinds[0],
                choices=f.metadata["choices"],
                metavar=None if f.metadata["choices"] else {int: "N", float: "X"}.get(kinds[0], "NAME"),
                **options,
            )


def _add_checkpoint(parser):
    parser.add_argument(
        "checkpoint", nargs="?", help="a checkpoint or a run; the newest under runs/ unless given"
    )


def _add_special(parser, where, **default):
    meaning = "refuse, an error; allow, the token; text, what other text becomes"
    parser.add_argument(
        "--special",
        choices=POLICIES,
        **default,
        help=f"special tokens that the {where} spells out: {meaning}; refuse unless given",
    )


def _shape(text):
    """A shape such as 3x5, for argparse."""
    sizes = text.replace(",", "x").split("x")
    if not all(size.isascii() and size.isdigit() for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape, expected sizes such as 3x5")
    return tuple(map(int, sizes))


def _count(text):
    """An integer of 0 or more, for argparse."""
    return _at_least(0, text)


def _positive(text):
    """An integer of 1 or more, for argparse."""
    return _at_least(1, text)


def _at_least(smallest, text):
    try:
        value = int(text)
    except ValueError:
        value = smallest - 1
    if value < smallest:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer, expected {smallest} or more")
    return value
