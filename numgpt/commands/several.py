"""A command on several processes: --parallel, and what each of them does of it."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..architecture.config import Training
from ..errors import InputError
from . import flags
from .printing import say

if TYPE_CHECKING:
    from ..parallel.layout import Layout
    from ..parallel.ranks import Ranks
    from ..training.distribution import Distribution

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
    from ..parallel.data import DataParallel

    layout: Layout = args.layout
    unknown = [kind for kind in layout.sizes if kind != "data"]
    if unknown:
        raise InputError(f"--parallel: {unknown[0]} is not for this command, expected data")
    return DataParallel(args.ranks)


def cut(training: Training, args: argparse.Namespace) -> Training:
    """Settings whose steps the ranks can share; what was cut is said."""
    layout = getattr(args, "layout", None)
    if layout is None or hasattr(args, "accumulate"):
        return training
    size, rows = layout.of("data"), training.batch_size
    if training.accumulate % size == 0:
        return training
    if rows % size:
        raise InputError(
            f"--parallel: a step has batch_size {rows} rows, which {size} ranks cannot share evenly, expected"
            f" a multiple of {size}: give --batch-size {-(-rows // size) * size}, or --accumulate {size}"
        )
    batch_size, accumulate = rows // size, training.accumulate * size
    say(
        f"numgpt: the {rows} rows of a batch become --batch-size {batch_size} --accumulate {accumulate}, with the"
        f" same bits on any number of ranks that divides {accumulate}"
    )
    return dataclasses.replace(training, batch_size=batch_size, accumulate=accumulate)
