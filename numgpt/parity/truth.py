"""Who is closer to the truth: numgpt's and PyTorch's errors in a float32 step, against long double."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..layers.transformer import loss
from ..model.gpt import GPT
from ..random import generator
from ..training.optim import AdamW, adamw
from .borrowing import torch
from .forms import Form
from .rounding import rms
from .torch_record import torch_run

CONFIG = Config(vocab_size=65, block_size=32, n_layer=2, n_head=4, n_embd=64)
STEP: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
LR = 1e-3
WARM = 10  # steps before the one that is measured, so that biases are not 0 and norms not 1
Squares = dict[tuple[str, str], list[float]]  # (stage, name) → the squared errors of both sides, added up


@dataclass(frozen=True)
class Tensor:
    """One tensor's error in float32, root mean square over its entries and the seeds.

    In ulps: 2⁻²³ of the tensor's root mean square.
    """

    stage: str  # value, gradient or update
    name: str
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Ours to theirs; 1 where both are exact."""
        if self.theirs:
            return self.ours / self.theirs
        return 1.0 if self.ours == 0 else math.inf

    def __str__(self) -> str:
        return f"{self.stage:9}  {self.name:24}  {self.ours:8.3f}  {self.theirs:8.3f}  {self.ratio:6.2f}"


HEADER = f"{'error in ulps of':9}{'':18}  {'numgpt':>8}  {'PyTorch':>8}  {'ratio':>6}"


def measure(config: Config = CONFIG, seeds: Sequence[int] = range(16), B: int = 16) -> list[Tensor]:
    """A Tensor for each value, gradient and updated parameter.

    seeds: sixteen, because the loss is one number a seed. B: rows of the batch; 16 of 32 tokens are enough
    for the numba engine to run a block as one piece, as in training.

    The exact step runs in long double on the specification, from the same float32 parameters. numgpt's
    parameter gradients and loss are those of GPT.loss_and_grads on the engine in use; values, and gradients
    of values, those of a Record that keeps them. An updated parameter is judged by a long double AdamW from
    the same side's own gradient: otherwise the first step of Adam, which divides each gradient by its own
    size, would show which gradients are near 0, not how well it is computed.
    """
    squares: Squares = {}
    for seed in seeds:
        _add_seed(squares, config, seed, B)
    n = len(seeds)
    return [
        Tensor(*key, math.sqrt(ours / n), math.sqrt(theirs / n)) for key, (ours, theirs) in squares.items()
    ]


def _add_seed(squares: Squares, config: Config, seed: int, B: int) -> None:
    """Add the squared errors of one training step."""
    t = torch()
    model, tokens, targets = _warm(config, seed, B)
    params = model.params.to("reference")
    form = Form(config, params)
    exact, kept = form.run(tokens, targets, "longdouble"), form.run(tokens, targets, "float32")
    value, there = model.loss_and_grads(tokens, targets)
    value, grads = engine.home(value), there.to("reference")
    theirs = torch_run(form, loss, (tokens, targets), "float32", lambda params: _torch_adamw(t, params))
    stages = (
        ("value", {**kept.values, "loss": value}, theirs.values, exact.values),
        ("gradient", {**kept.grads, **grads}, theirs.grads, exact.grads),
    )
    for stage, our_arrays, their_arrays, exact_arrays in stages:
        for name, truth in exact_arrays.items():
            _add(squares, (stage, name), (our_arrays[name], truth), (their_arrays[name], truth))
    updated = model.params.astype("float32")
    AdamW(updated, clip=0, **STEP).step(there, LR)
    updated = updated.to("reference")
    our_truth, their_truth = _exact_step(params, grads), _exact_step(params, theirs.grads)
    for name in updated:
        ours = updated[name], our_truth[name]
        _add(squares, ("update", name), ours, (theirs.updated[name], their_truth[name]))


def geometric_mean(tensors: Sequence[Tensor]) -> float:
    """The geometric mean of ours to theirs, over the tensors that are not exact on either side."""
    logs = [math.log(x.ratio) for x in tensors if x.ours and x.theirs]
    return math.exp(sum(logs) / len(logs))


def blas_ratio(config: Config = CONFIG, rows: int = 512) -> float:
    """The error of NumPy's own float32 products to that of PyTorch's, in the geometric mean.

    Both call a BLAS, which sums in an order of its own: on some processors NumPy's adds up longer runs, and
    errs more, than the one that PyTorch brings. Of the products of a block, at random matrices.
    """
    t, logs = torch(), []
    C, F = config.n_embd, config.ffn_width
    for n, (K, N) in enumerate([(C, 3 * C), (C, C), (C, F), (F, C)]):
        rng = generator(n, "blas")
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, K), (K, N)))
        exact = a.astype("float64") @ b.astype("float64")
        theirs = (t.from_numpy(a) @ t.from_numpy(b)).numpy()
        logs.append(math.log(rms(a @ b - exact) / rms(theirs - exact)))
    return math.exp(sum(logs) / len(logs))


def _warm(config: Config, seed: int, B: int) -> tuple[GPT, Any, Any]:
    """A model after some steps on random tokens, and a batch that it has not seen."""
    model, rng = GPT(config, seed), generator(seed, "truth")
    optimizer = AdamW(model)
    for _ in range(WARM):
        tokens, targets = rng.integers(0, config.vocab_size, (2, B, config.block_size))
        optimizer.step(model.loss_and_grads(tokens, targets)[1], LR)
    return model, *rng.integers(0, config.vocab_size, (2, B, config.block_size))


def _torch_adamw(t: Any, params: Mapping[str, Any]) -> Any:
    """PyTorch's AdamW with the same settings: decay on matrices only."""
    matrices = [p for p in params.values() if p.ndim > 1]
    vectors = [p for p in params.values() if p.ndim <= 1]
    return t.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=LR, **STEP)


def _exact_step(params: Flat, grads: Mapping[str, Any]) -> Flat:
    """The parameters after a first step of AdamW in long double from these gradients."""
    w, g = params.astype("longdouble"), params.astype("longdouble")
    for name in g:
        g[name] = grads[name]
    m, v = w.like().flat, w.like().flat
    adamw(w.flat, g.flat, m, v, w.decayed.size, STEP["betas"], STEP["eps"], STEP["weight_decay"], 1.0, LR, 1)
    return w


def _add(squares: Squares, key: tuple[str, str], *sides: tuple[Any, Any]) -> None:
    """Add the squared errors in ulps of both sides' (array, exact array)."""
    sums = squares.setdefault(key, [0.0, 0.0])
    for i, (array, exact) in enumerate(sides):
        ulp = rms(exact) * float(np.finfo(np.float32).eps)
        sums[i] += (rms(np.subtract(array, exact, dtype=np.longdouble)) / ulp) ** 2 if ulp else 0.0
