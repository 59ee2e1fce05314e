"""numgpt plot: pictures of runs and of models, and a table of what differs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from . import flags, runs
from .places import expect_apart
from .printing import say

if TYPE_CHECKING:
    from ..model.gpt import GPT
    from ..plots.runs import Run
    from ..plots.table import Table
    from ..traces import Trace

HELP = "Draw losses of runs over each other, gradients by depth, or attention."
EXAMPLE = "numgpt plot runs/1 runs/2 -o loss.svg"

# Picture → the flags that change it, besides those of all pictures; the first is what no flag asks for.
LINES = ("x", "smooth", "log_x", "log_y")
PICTURES = {
    "loss": LINES,
    "rewards": LINES,
    "curves": LINES,
    "gradients": ("prompt", "of"),
    "attention": ("prompt", "layers", "heads"),
}


class Picture(NamedTuple):
    """What is drawn: a figure, and the table that is printed; None where the picture says it all."""

    figure: Any
    table: Table | None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt plot."""
    flags.add(
        parser,
        "runs",
        nargs="*",
        metavar="RUN",
        help=(
            "folders of runs, which may still go on; with --gradients or --attention one model, a checkpoint"
            " or a run, or the file of a trace"
        ),
        shown="the newest run under runs/",
    )
    flags.add(
        parser,
        "-o",
        "--out",
        metavar="FILE",
        help="where to draw: a name that ends in .png, .svg, .pdf or .html, a page that needs no other file",
        shown="loss.png, rewards.png, …",
    )
    flags.add(parser, "--dpi", type=int, metavar="N", help="dots per inch of a .png", default=150)
    which = parser.add_argument_group(
        "pictures", "one of them; the losses of all runs without, or their rewards where all have some"
    ).add_mutually_exclusive_group()
    flags.add(
        which,
        "--rewards",
        action="store_true",
        help="of runs that learn from rewards: reward, divergence, entropy, length and more, a panel each",
    )
    flags.add(
        which,
        "--curves",
        action="store_true",
        help="four panels: losses, norms of the gradient, learning rates, tokens per second",
    )
    flags.add(
        which, "--gradients", action="store_true", help="a map of ‖gradient‖ by name and layer, of one batch"
    )
    flags.add(which, "--attention", action="store_true", help="a map of attention for each layer and head")
    _add_line_flags(parser)
    _add_model_flags(parser)
    flags.add_engine(parser)


def _add_line_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of losses and curves."""
    group = parser.add_argument_group("losses and curves")
    flags.add(
        group,
        "--x",
        choices=("step", "tokens", "seconds"),
        help="what to draw over; seconds are those of the steps, without measurements and pauses",
        shown="step",
    )
    flags.add(
        group,
        "--smooth",
        type=flags.positive,
        metavar="N",
        help="draw the mean of so many last steps; the held-out loss stays as it is",
        shown=1,
    )
    flags.add(group, "--log-x", action="store_true", help="logarithmic x axis")
    flags.add(group, "--log-y", action="store_true", help="logarithmic y axis")


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of gradients and attention."""
    group = parser.add_argument_group("gradients and attention")
    flags.add(
        group,
        "--prompt",
        metavar="TEXT",
        help="text that the model reads; --gradients takes the first held-out batch of the run without",
    )
    flags.add(
        group,
        "--of",
        choices=("parameters", "values"),
        help="of what --gradients shows the gradients",
        shown="parameters",
    )
    for name in ("layers", "heads"):
        flags.add(
            group,
            f"--{name}",
            type=flags.numbers,
            metavar="N,N",
            help=f"{name} that --attention shows, such as 0,2",
            shown="all",
        )


def run(args: argparse.Namespace) -> int:
    """Draw, write the file, print the table."""
    from ..plots import files, read, style

    kind = next((name for name in PICTURES if getattr(args, name, False)), next(iter(PICTURES)))
    _expect_flags_of(kind, args)
    if args.out:
        files.suffix_of(Path(args.out))
    matplotlib = style.matplotlib()
    matplotlib.use("Agg")
    places = args.runs or [runs.newest()]
    if places == [None]:
        raise InputError(
            "plot: there is no run under runs/, expected one: make it with numgpt train, or name its folder"
        )
    of_runs: list[Run] = []
    if PICTURES[kind] == LINES:
        expect_apart(places, [args.out] if args.out else [])
        of_runs = [read(place) for place in places]
    if kind == "loss" and of_runs and all(run.has_rewards for run in of_runs):
        kind = "rewards"  # the loss of such a run means nothing
    out = Path(args.out or f"{kind}.png")
    expect_apart(places, [out])
    figure, table = _lines(kind, of_runs, args) if of_runs else _maps(kind, places, args)
    title = f"{kind} of {', '.join(map(str, places))}"
    try:
        files.save(figure, out, dpi=args.dpi, table=table, title=title)
    finally:
        style.matplotlib("pyplot").close("all")
    if table is not None:
        print(table)
    say(f"picture: {out}")
    return 0


def _expect_flags_of(kind: str, args: argparse.Namespace) -> None:
    """Raise InputError for a flag that does not change the picture which was asked for."""
    every = dict.fromkeys(flag for own in PICTURES.values() for flag in own)
    for flag in every:
        if getattr(args, flag) in (None, False) or flag in PICTURES[kind]:
            continue
        pictures = [f"--{name}" for name, own in PICTURES.items() if flag in own and name != "loss"]
        name = flag.replace("_", "-")
        if flag in LINES:
            raise InputError(f"plot: --{name} is of losses and curves, expected no --{kind} beside it")
        raise InputError(f"plot: --{name} needs {' or '.join(pictures)}")


def _lines(kind: str, several: Sequence[Run], args: argparse.Namespace) -> Picture:
    """The losses of runs, or panels."""
    from .. import plots

    draw = {"loss": plots.loss, "curves": plots.curves, "rewards": plots.rewards}[kind]
    drawn = draw(several, x=args.x or "step", smooth=args.smooth or 1)
    for ax in [drawn] if kind == "loss" else drawn.axes:
        if args.log_x:
            ax.set_xscale("log")
        if args.log_y:
            ax.set_yscale("log")
    return Picture(drawn, plots.table(several))


def _maps(kind: str, places: Sequence[Any], args: argparse.Namespace) -> Picture:
    """The map of gradients, or those of attention, of one model or trace."""
    from .. import plots
    from ..plots import gradient_map

    if len(places) > 1:
        raise InputError(f"plot: --{kind} is of one model, expected one RUN: leave out {places[1]}")
    of = _model_or_trace(places[0], args)
    if kind == "attention":
        return Picture(plots.attention(of, _prompt(of, args), layers=args.layers, heads=args.heads), None)
    trace = _trace_of_batch(of, places[0], args)
    which: Any = args.of or "parameters"
    norms = gradient_map.gradient_norms(trace, None, None, which)
    return Picture(plots.gradients(trace, which=which), gradient_map.gradient_table(norms))


def _model_or_trace(place: Any, args: argparse.Namespace) -> GPT | Trace:
    """What a place leads to: a file is a trace."""
    from ..model.gpt import GPT
    from ..traces import Trace

    if not Path(place).is_file():
        return GPT.load(place)
    if args.prompt is not None:
        raise InputError(f"plot: {place} is a trace with tokens of its own, expected no --prompt beside it")
    return Trace.read(place)


def _prompt(of: GPT | Trace, args: argparse.Namespace) -> str | None:
    """The text that a model reads; a trace has its own."""
    from ..traces import Trace

    if args.prompt is None and not isinstance(of, Trace):
        raise InputError("plot: --attention needs --prompt TEXT, which the model reads")
    prompt: str | None = args.prompt
    return prompt


def _trace_of_batch(of: GPT | Trace, place: Any, args: argparse.Namespace) -> Trace:
    """The trace of a model's prompt, or of the first held-out batch of its run."""
    from ..model.prompts import ids_of
    from ..traces import Trace

    if isinstance(of, Trace):
        return of
    if args.prompt is None:
        tokens, targets = _held_out(of, place)
    else:
        ids = ids_of("gradients", of, args.prompt)
        if len(ids) < 2:
            raise InputError("plot: the prompt has less than two tokens, expected one that predicts another")
        tokens, targets = ids[:-1], ids[1:]
    keep = None if args.of == "values" else list(of.params)
    return of.record(tokens, targets, keep=keep).trace()


def _held_out(model: GPT, place: Any) -> Any:
    """The first held-out batch of a run."""
    from ..architecture.config import Training
    from ..architecture.fields import from_dict
    from ..interchange import checkpoint
    from ..training.objective import Pretraining

    folder = Path(place)
    places = (folder / "last", folder, folder.parent / "last")  # of a run, its last and its best checkpoint
    last = next((p for p in places if checkpoint.is_run(p)), None)
    if last is None:
        raise InputError(f"plot: {place} is no run with a text of its own, expected --prompt TEXT beside it")
    state = checkpoint.read_state(last)
    if "objective" in state:
        raise InputError(
            f"{place}: trains by the objective {state['objective']}, expected --prompt TEXT for a batch"
        )
    recipe = {"folder": last.parent / "tokens"} | state["recipe"]
    training = from_dict(Training, state["training"])
    objective = Pretraining(runs.corpus(recipe, model), training, model.config.block_size)
    return next(objective.held_out()).inputs
