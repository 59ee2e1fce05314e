"""numgpt inspect: what attends, what each layer would say, what an answer is made of and comes from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from . import flags
from .places import expect_apart
from .printing import say

if TYPE_CHECKING:
    from ..model.gpt import GPT
    from .inspect_measures import Measured

HELP = "Look inside a model: attention, what each layer would say, and which parts give an answer."
EXAMPLE = 'numgpt inspect numgpt:tiny lens --prompt "It is a truth universally" --plot lens.png'

# Measure → the flags that it reads besides those of all; --prompt has a place of its own in the errors.
ASKED = ("answer", "against")
MEASURES = {
    "attention": ("prompt", "layers", "heads"),
    "lens": ("prompt", "answer", "top"),
    "attribute": ("prompt", *ASKED, "by"),
    "patch": ("prompt", *ASKED, "corrupted", "at", "align", "estimate"),
    "trace": ("prompt", "answer", "subject", "window", "draws", "seed"),
    "heads": ("prompt", "seed"),
    "neurons": ("prompt", "data", "layer", "neurons", "top"),
}
WITHOUT_PROMPT = ("heads", "neurons")
SITES = ("resid_pre", "resid_mid", "resid_post", "attn", "mlp", "heads", "q", "k", "v")
DOUBLE = 3_000_000  # parameters up to which a model computes in float64
TOP = 5


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt inspect."""
    flags.add(parser, "model", metavar="MODEL", help=flags.MODEL)
    flags.add(
        parser,
        "measure",
        metavar="MEASURE",
        choices=tuple(MEASURES),
        help=(
            "attention: who reads from whom; lens: what each layer would say; attribute: what each part adds"
            " to an answer; patch: which activations bring it back; trace: where a subject is recalled;"
            " heads: previous token, induction and more; neurons: where each is strongest"
        ),
    )
    flags.add(parser, "--prompt", metavar="TEXT", help="text that the model reads; heads can do without")
    flags.add(
        parser,
        "--plot",
        metavar="FILE",
        help=(
            "draw it: .png, .svg, .pdf, or .html, a page that needs no other file; of attention and patch one"
            " to point at"
        ),
    )
    flags.add(parser, "--json", action="store_true", help="print the numbers as JSON")
    _add_answer_flags(parser)
    _add_patch_flags(parser)
    _add_place_flags(parser)
    flags.add_engine(parser, tf32=False)


def _add_answer_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of what is asked about."""
    group = parser.add_argument_group("lens, attribute, patch and trace")
    flags.add(
        group,
        "--answer",
        metavar="TEXT",
        help="one token, with its blank, such as ' was'",
        shown="what the model says",
    )
    flags.add(
        group,
        "--against",
        metavar="TEXT",
        help="the token that attribute and patch compare the answer with",
        shown="the likeliest other; of patch what the model says to the corrupted prompt",
    )
    flags.add(
        group,
        "--by",
        choices=("layers", "heads", "tokens"),
        help="what attribute splits: layers, heads too, or tokens of the prompt by integrated gradients",
        shown="layers",
    )
    flags.add(
        group,
        "--top",
        type=flags.positive,
        metavar="N",
        help="tokens that lens names, or texts that neurons shows of each",
        shown=TOP,
    )


def _add_patch_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of experiments with another run."""
    group = parser.add_argument_group("patch and trace")
    flags.add(
        group,
        "--corrupted",
        metavar="TEXT",
        help="the prompt of patch with something else in one place, and as many tokens",
    )
    flags.add(
        group,
        "--at",
        choices=SITES,
        help="what patch puts in: the stream, what attention or the feed-forward adds, or of each head",
        shown="resid_pre",
    )
    flags.add(
        group,
        "--align",
        action="store_true",
        help="let patch take prompts of other lengths: only tokens that correspond are patched",
    )
    flags.add(
        group,
        "--estimate",
        action="store_true",
        help="show the estimate by one gradient beside patching, and how alike they rank",
    )
    flags.add(group, "--subject", metavar="TEXT", help="part of the prompt that trace covers with noise")
    flags.add(
        group,
        "--window",
        type=flags.positive,
        metavar="N",
        help="layers whose mlp, or attn, trace restores at once",
        shown="a third of the layers, at most 10",
    )
    flags.add(group, "--draws", type=flags.positive, metavar="N", help="noises that trace draws", shown=10)
    flags.add(
        group,
        "--seed",
        type=int,
        metavar="N",
        help="draws the noise of trace, and the tokens of heads",
        shown=0,
    )


def _add_place_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that choose layers, heads and neurons."""
    group = parser.add_argument_group("attention and neurons")
    for name in ("layers", "heads"):
        flags.add(
            group,
            f"--{name}",
            type=flags.numbers,
            metavar="N,N",
            help=f"{name} that attention shows, such as 0,2",
            shown="all",
        )
    flags.add(
        group,
        "--layer",
        type=flags.count,
        metavar="N",
        help="layer of the neurons",
        shown="the middle one",
    )
    flags.add(
        group,
        "--neurons",
        type=flags.numbers,
        metavar="N,N",
        help="their numbers",
        shown="the eight that are strongest",
    )
    flags.add_data(group, "the prompt")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table or JSON, and draw."""
    _expect_flags_of(args)
    if args.plot:
        _expect_picture(args)
    model = _model(args)
    try:
        from . import inspect_measures

        found = inspect_measures.measured(model, args)
    except InputError as error:
        raise InputError(_in_flags(str(error))) from error
    if args.plot:
        _draw(found, args)
    if args.json:
        print(json.dumps(found.facts, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print("\n\n".join(map(str, found.parts)))
    if args.plot:
        say(f"picture: {args.plot}")
    return 0


def _expect_flags_of(args: argparse.Namespace) -> None:
    """Raise InputError for a flag that does not change the measure, and for a prompt that is missing."""
    own = MEASURES[args.measure]
    for flag in dict.fromkeys(flag for each in MEASURES.values() for flag in each):
        given = getattr(args, flag)
        if given is None or given is False or flag in own:
            continue
        of = [name for name, theirs in MEASURES.items() if flag in theirs]
        raise InputError(f"inspect: --{flag} is of {' and '.join(of)}, expected none beside {args.measure}")
    if args.prompt is None and args.measure not in WITHOUT_PROMPT:
        raise InputError(f"inspect: {args.measure} reads a text, expected --prompt TEXT")
    if args.measure == "neurons" and (args.prompt is None) == (args.data is None):
        raise InputError("inspect: neurons reads one text, expected --prompt TEXT or --data PATH")
    for needed in ("corrupted", "subject"):
        if needed in own and getattr(args, needed) is None:
            raise InputError(f"inspect: {args.measure} needs --{needed} TEXT")


def _expect_picture(args: argparse.Namespace) -> None:
    """Raise InputError, before the work, for a picture that cannot be written, or where nothing can draw."""
    from ..plots import files, style

    suffix = files.suffix_of(Path(args.plot))
    if not Path(args.plot).parent.is_dir():
        raise InputError(f"{args.plot}: its folder does not exist, expected one that does: make it first")
    expect_apart([args.model, *(args.data or [])], [args.plot], "--plot")
    if not (suffix == ".html" and args.measure in ("attention", "patch")):
        style.matplotlib().use("Agg")


def _model(args: argparse.Namespace) -> GPT:
    """The model; a small one in float64, so that its sums are exact to the last digits shown."""
    from ..model.gpt import GPT

    model = GPT.load(args.model)
    reads = args.prompt is not None or args.data is not None
    if reads and model.tokenizer is None:
        raise InputError("inspect: the model has no tokenizer, expected one to read the text")
    model = model.plain()  # measures read matrices; what it computes is the same
    return model.astype("float64") if model.n_params <= DOUBLE else model


def _draw(found: Measured, args: argparse.Namespace) -> None:
    """Write the picture, or where there is one the page."""
    from ..plots import files, style

    if found.page is not None and Path(args.plot).suffix.lower() == ".html":
        found.page(args.plot)
        return
    try:
        files.save(found.draw(), args.plot, table=found.parts[0], title=found.title)
    finally:
        style.matplotlib("pyplot").close("all")


# How the package's messages call what flags give here.
CALLED = (
    ("; give align=True to patch", "; give --align to patch"),
    (": clean has ", ": --prompt has "),
    (" and corrupted ", " and --corrupted "),
    (" on the clean prompt and ", " on --prompt and "),
    (" on the corrupted one, ", " on --corrupted, "),
    (", or give the id of its first", ""),
    (": k is ", ": --top is "),
    (": layers has ", ": --layers has "),
    (": heads has ", ": --heads has "),
    (": neurons has ", ": --neurons has "),
    (": layer is ", ": --layer is "),
    ("expected none for by_head: ask for whole layers", "expected none for --by heads: take --by layers"),
    (": answer and wrong are", ": --answer and --against are"),
    ("expected a text of one token, or an id", "expected a text of one token"),
)


def _in_flags(message: str) -> str:
    """A message of the package as whoever typed the command reads it."""
    who, _, rest = message.partition(": ")
    is_function = who.replace("_", "").isalpha() and "_" in who
    if is_function or who in ("attention", "probability"):
        message = f"inspect: {rest}"
    for theirs, ours in CALLED:
        message = message.replace(theirs, ours, 1)
    return message
