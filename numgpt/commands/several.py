"""A command on several processes: --parallel, and what each of them does of it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..architecture.config import Training
from ..errors import InputError
from . import flags
from .printing import plural, say

if TYPE_CHECKING:
    from ..parallel.layout import Layout
    from ..parallel.ranks import Ranks
    from ..training.distribution import Distribution
    from ..training.trainer import Trainer

# Variables by which mpiexec says how many processes it has started.
SIZES = ("PMI_SIZE", "PMIX_SIZE", "OMPI_COMM_WORLD_SIZE")
# Variables by which somebody has said how many threads there are to be.
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


def add_flag(parser: flags.Flags, kinds: str) -> None:
    """Add --parallel; kinds: what it may be for a command."""
    flags.add(
        parser,
        "--parallel",
        metavar="KIND",
        help=f"work on several processes, which mpiexec -n N numgpt … starts: {kinds}",
        shown="this process alone",
    )


def expect_alone(args: argparse.Namespace) -> None:
    """Raise InputError where several processes would each do all of what they could share."""
    size = next((os.environ[name] for name in SIZES if os.environ.get(name, "").isdigit()), "1")
    if hasattr(args, "parallel") and int(size) > 1:
        raise InputError(
            f"{args.command}: mpiexec has started {size} processes, and each would do all of it, expected"
            " --parallel: give --parallel data, or start one process"
        )


def on_ranks(args: argparse.Namespace, work: Callable[[], tuple[int, str]]) -> int:
    """The exit status of a command that each rank runs by work(): the same for all.

    The first rank alone prints. A rank has its share of a host's cores, unless somebody has said how many.
    """
    from ..parallel import failure, layout, mpi_ranks

    ranks = mpi_ranks.world()

    def prepared() -> tuple[int, str]:
        try:
            args.ranks, args.layout = ranks, layout.parsed(args.parallel, ranks.size)
            if args.engine == "cupy":
                raise InputError("--parallel computes on hosts, expected --engine numba or reference")
        except InputError as error:
            return 2, f"numgpt: {error}"
        if not args.threads and not any(name in os.environ for name in THREADS):
            args.threads = mpi_ranks.threads_of(ranks)
        if ranks.rank:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 lives as long as the process
        return work()

    return failure.supervised(ranks, prepared)


def ranks_of(args: argparse.Namespace) -> Ranks:
    """The ranks that work on a command."""
    from ..parallel.ranks import Alone

    ranks: Ranks = getattr(args, "ranks", None) or Alone()
    return ranks


def by_first(args: argparse.Namespace, work: Callable[[], str]) -> str:
    """What work() gives on the first rank, which alone does it; what it refuses, all refuse."""
    ranks = ranks_of(args)
    if ranks.size == 1:
        return work()
    answer = ""
    if ranks.rank == 0:
        try:
            answer = f"+{work()}"
        except InputError as error:
            answer = f"-{error}"
    answer = ranks.gather_texts(answer)[0]
    if answer.startswith("-"):
        raise InputError(answer[1:])
    return answer[1:]


def distribution(args: argparse.Namespace) -> Distribution | None:
    """Who works on a run, None for this process alone."""
    if getattr(args, "ranks", None) is None:
        return None
    layout: Layout = args.layout
    kinds = [kind for kind in layout.sizes if kind != "data"]
    if not kinds:
        from ..parallel.data import DataParallel

        return DataParallel(args.ranks)
    if len(kinds) > 1:
        raise InputError(
            f"--parallel is {args.parallel}, which cuts the model in {len(kinds)} ways, expected one, beside"
            f" data: data:2,{kinds[0]}:2"
        )
    from ..parallel.in_parts import InParts

    of_part, of_data = layout.group(args.ranks, kinds[0]), layout.group(args.ranks, "data")
    return InParts(_plan(kinds[0]), args.ranks, of_part, of_data)


def expect_data_alone(args: argparse.Namespace) -> None:
    """Raise InputError for a layout that cuts the model, where a command cannot do that."""
    layout = getattr(args, "layout", None)
    for kind in layout.sizes if layout is not None else ():
        if kind != "data":
            raise InputError(
                f"{args.command}: --parallel is {args.parallel}, expected data, which it can share"
            )


def _plan(kind: str) -> Callable[..., Any]:
    """How a model is cut."""
    if kind == "pipeline":
        from ..parallel.pipeline import PipelinePlan

        return PipelinePlan
    if kind == "experts":
        from ..parallel.experts import ExpertPlan

        return ExpertPlan
    from ..parallel.tensor import TensorPlan

    return functools.partial(TensorPlan, sequence=kind == "sequence")


def described(trainer: Trainer, args: argparse.Namespace) -> str:
    """The line on who works on a run, "" for one process."""
    layout = getattr(args, "layout", None)
    if layout is None:
        return ""
    line = f"ranks   {plural(layout.size, 'rank')}, {layout}"
    if layout.of("pipeline") == 1:
        return line
    from ..parallel.pipeline_report import report

    batches = trainer.training.accumulate // layout.of("data")
    return f"{line}\n{report(trainer.model.config, layout.of('pipeline'), batches)}"


def cut(training: Training, args: argparse.Namespace) -> Training:
    """Settings whose steps the ranks can share; what was cut is said."""
    layout = getattr(args, "layout", None)
    if layout is None or hasattr(args, "accumulate"):
        return training
    size, rows = layout.of("data") * layout.of("experts") * layout.of("pipeline"), training.batch_size
    if training.accumulate % size == 0:
        return training
    if rows % size:
        raise InputError(
            f"--parallel: a step has batch_size {rows} rows, which {size} ranks cannot share evenly, expected"
            f" a multiple of {size}: give --batch-size {-(-rows // size) * size}, or --accumulate {size}"
        )
    batch_size, accumulate = rows // size, training.accumulate * size
    flags_of = f"--batch-size {batch_size} --accumulate {accumulate}"
    say(f"numgpt: {rows} rows become {flags_of}: a batch for each rank, and the same bits on fewer of them")
    return dataclasses.replace(training, batch_size=batch_size, accumulate=accumulate)
