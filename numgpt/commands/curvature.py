"""numgpt curvature: the second derivative of the loss at a checkpoint."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from ..architecture.config import LARGEST
from ..errors import InputError
from . import flags

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..model.gpt import GPT

HELP = "Measure the exact curvature of the loss: noise scale, Hessian, largest eigenvalues."
EXAMPLE = "numgpt curvature runs/1 --data FILE --eigenvalues 3"

LENGTH = 64  # tokens a row, unless --tokens says otherwise


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt curvature."""
    flags.add(parser, "checkpoint", metavar="CHECKPOINT", help=flags.MODEL)
    flags.add_data(parser, "random tokens")
    flags.add_special(parser, "the text")
    flags.add(
        parser,
        "--batch-size",
        type=flags.positive,
        metavar="B",
        help="rows of tokens, drawn from the text",
        default=8,
    )
    flags.add(
        parser,
        "--tokens",
        type=flags.positive,
        metavar="T",
        help="tokens a row",
        shown=f"{LENGTH}, or block_size if that is less",
    )
    flags.add(
        parser,
        "--eigenvalues",
        type=flags.count,
        metavar="K",
        help="how many of the largest eigenvalues to find",
        default=1,
    )
    flags.add(
        parser,
        "--operator",
        choices=("hessian", "gauss_newton"),
        help="the matrix whose eigenvalues are found",
        default="hessian",
    )
    flags.add(
        parser,
        "--solver",
        choices=("lanczos", "scipy"),
        help="lanczos stores a vector for each step, scipy only a few",
        default="lanczos",
    )
    flags.add(
        parser,
        "--steps",
        type=flags.positive,
        metavar="N",
        help="steps of the solver at most; the printed bounds show whether they were enough",
        default=40,
    )
    flags.add(
        parser,
        "--seed",
        type=flags.count,
        metavar="N",
        help="seed of the rows and of the solver's start",
        default=0,
    )
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print gradients by row, their noise scale, the curvature along the gradient, and eigenvalues."""
    from ..model.gpt import GPT

    model = GPT.load(args.checkpoint)
    T = args.tokens or min(model.config.block_size, LENGTH)
    if not 1 <= T <= model.config.block_size:
        raise InputError(f"curvature: --tokens is {T}, expected 1 to block_size {model.config.block_size}")
    if args.batch_size > LARGEST:
        raise InputError(f"curvature: --batch-size is {args.batch_size}, expected 1 to {LARGEST:,}")
    _expect_eigenvalues(args, model)
    source, tokens, targets = _rows(args, model, T)
    print(f"text              {source}: {len(tokens)} rows of {T} tokens")
    direction = _print_gradients(model, tokens, targets)
    _print_curvature(model, tokens, targets, direction)
    if args.eigenvalues:
        _print_eigenvalues(args, model, tokens, targets)
    return 0


def _expect_eigenvalues(args: argparse.Namespace, model: GPT) -> None:
    """Raise InputError for more eigenvalues than the solver finds: before the work."""
    most, why = model.n_params - 1, f"for {model.n_params:,} parameters by --solver scipy"
    if args.solver == "lanczos":
        most = min(args.steps, model.n_params)
        why = f"for {model.n_params:,} parameters and --steps {args.steps}"
    if args.eigenvalues > most:
        raise InputError(f"curvature: --eigenvalues is {args.eigenvalues:,}, expected 0 to {most:,} {why}")


def _rows(args: argparse.Namespace, model: GPT, T: int) -> tuple[str, NDArray[Any], NDArray[Any]]:
    """(what they are, tokens, targets): rows drawn from a text by the seed, or of random tokens."""
    from ..data.corpus import encode
    from ..random import generator

    rng = generator(args.seed, "curvature")
    if args.data is None:
        rows = rng.integers(0, model.config.vocab_size, (args.batch_size, T + 1))
        return "random tokens, for want of --data", rows[:, :-1], rows[:, 1:]
    if model.tokenizer is None:
        raise InputError(
            "curvature: the checkpoint has no tokenizer, expected one to read the text: leave --data out"
        )
    source, ids = encode(args.data, model.tokenizer, args.special)
    if len(ids) <= T:
        raise InputError(
            f"curvature: the text has {len(ids)} tokens, expected more than {T}: give fewer --tokens"
        )
    starts = rng.integers(0, len(ids) - T, args.batch_size)[:, None] + np.arange(T)
    return source, ids[starts].astype(np.int64), ids[starts + 1].astype(np.int64)


def _print_gradients(model: GPT, tokens: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    """Print loss, gradient and noise scale; returns the direction of the gradient, of length 1."""
    from .. import calculus

    loss, grads = model.astype("float64").loss_and_grads(tokens, targets)
    gradient = grads.to("reference").flat
    length = np.linalg.norm(gradient)
    norms = calculus.gradient_norms(model, tokens, targets)
    print(f"loss              {float(loss):.6f} nats a token")
    print(
        f"gradient          norm {length:.6g}; of single rows {norms.min():.4g} to {norms.max():.4g}, median"
        f" {np.median(norms):.4g}"
    )
    if len(tokens) > 1:
        noise = calculus.gradient_noise_scale(model, tokens, targets)
        parts = f"tr Σ {noise.trace:.4g}, |G|² {noise.squared_norm:.4g}"
        print(f"noise scale       {noise.scale:.4g} rows ({parts})")
    return gradient / (length or 1.0)


def _print_curvature(
    model: GPT, tokens: NDArray[Any], targets: NDArray[Any], direction: NDArray[Any]
) -> None:
    """Print v·A v for the direction v of the gradient, by each operator A."""
    from ..calculus import OPERATORS

    for name, product in OPERATORS.items():
        curvature = direction @ product(model, tokens, targets, direction).flat
        print(f"along gradient    {curvature:.6g} by the {name.replace('_', '-')}")


def _print_eigenvalues(
    args: argparse.Namespace, model: GPT, tokens: NDArray[Any], targets: NDArray[Any]
) -> None:
    """Print the largest eigenvalues, each with the bound of its error."""
    from ..calculus import top_eigenvalues

    top = top_eigenvalues(
        model,
        tokens,
        targets,
        args.eigenvalues,
        operator=args.operator,
        solver=args.solver,
        steps=args.steps,
        seed=args.seed,
    )
    for n, (value, bound) in enumerate(zip(top.values, top.bounds), 1):
        print(f"eigenvalue {n:<6} {value:.6g} ± {bound:.1g}")
    operator = args.operator.replace("_", "-")
    cost = f"{top.products} products with a matrix of {model.n_params:,} rows"
    print(f"                  of the {operator}, by {cost}")
