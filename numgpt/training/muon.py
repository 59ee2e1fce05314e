"""Muon: steps of matrices whose singular values are alike; AdamW moves what is no matrix of a block."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat, parts
from ..architecture.patterns import matching
from ..argument_kinds import is_finite
from ..arguments import AtLeastZero, BelowOne, Count, HeldAttributes, Positive, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..ops.activations import ACTIVATIONS
from . import moments
from .optim import AdamW, clip_factor, global_norm

Array = NDArray[Any]

A, B, C = 3.4445, -4.7750, 2.0315  # of the polynomial, by Jordan et al. 2024: steep at 0
ITERATIONS = 5
ADAMW_RMS = 0.2  # the root mean square of an update of AdamW, at rate 1 (Liu et al. 2025)
TINY = 1e-30  # a norm below it is that of a matrix of zeros


def orthogonalised(matrices: Array) -> Array:
    """The nearest matrices with orthogonal rows or columns, nearly: their singular values come close to 1.

        X₀ = G / ‖G‖_F                                      so its singular values lie in [0, 1]
        X ← a X + (b S + c S²) X,   S = X Xᵀ                five times

    With G = U diag(σ) Vᵀ each step is U diag(p(σ)) Vᵀ, p(σ) = a σ + b σ³ + c σ⁵, because S = U diag(σ²) Uᵀ:
    the directions stay, and products alone move the values, of which p takes the small ones up (a = 3.44 at
    0) and the large ones to about 1. p has no fixed point there, so they end between 0.68 and 1.2.
    U Vᵀ is what ⟨G, D⟩ grows fastest along among all D whose largest singular value is 1: the steepest step
    in that norm, as G / ‖G‖_F is in Frobenius'.

    G (..., I, O) → the same shape.  Source: Jordan et al. 2024; Bernstein and Newhouse 2024.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    X = matrices if wide else matrices.swapaxes(-1, -2)  # S is of the smaller size
    norm = np.sqrt((X * X).sum((-2, -1), keepdims=True))
    X = X / np.fmax(norm, TINY)
    for _ in range(ITERATIONS):
        S = X @ X.swapaxes(-1, -2)
        X = A * X + (B * S + C * (S @ S)) @ X
    return X if wide else X.swapaxes(-1, -2)


def matrix_parts(config: Config) -> dict[str, tuple[int, ...]]:
    """Name → the widths into which each matrix of a block is cut along its last axis, one for each map.

    q | k | v are three maps that lie side by side, and a gated feed-forward's gate | value two.

    >>> from numgpt import Config
    >>> matrix_parts(Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=8, n_kv_head=1))
    {'h.0.attn.c_attn.weight': (8, 4, 4), 'h.0.attn.c_proj.weight': (8,), 'h.0.mlp.c_fc.weight': (32,), \
'h.0.mlp.c_proj.weight': (8,)}
    """
    scopes = config.scopes()
    cut: dict[str, tuple[int, ...]] = {}
    for part in parts(config):
        if part.kind not in ("attention", "feed-forward", "experts") or min(part.shape[-2:]) < 2:
            continue
        kind = next((of for scope, of in scopes.items() if part.name.startswith(scope)), config)
        width = part.shape[-1]
        cut[f"{part.name}.weight"] = (width,)
        if part.name.endswith(".c_attn"):
            size = kind.head_size
            cut[f"{part.name}.weight"] = (kind.n_head * size, kind.kv_heads * size, kind.kv_heads * size)
        elif part.name.endswith(".c_fc") and ACTIVATIONS[kind.activation].gated:
            cut[f"{part.name}.weight"] = (width // 2, width // 2)
    return cut


class Muon(HeldAttributes):
    """Momentum, orthogonalised, for the matrices of the blocks; AdamW for all else.

    For a matrix W (I, O) with gradient G, which is clipped with all others to a global norm of at most clip:

        M ← μ M + G
        D = orthogonalised(G + μ M)                 the momentum one step ahead, as Nesterov's
        W ← W − lr λ W − lr 0.2 √max(I, O) D

    D has a root mean square of about 1 / √max(I, O), so that of the step is 0.2 lr, as AdamW's usually is:
    one learning rate and one decay suit both.  Sources: Jordan et al. 2024; Liu et al. 2025.

    Parameters
    ----------
    model : GPT
    momentum : float
        μ, at least 0 and less than 1.
    betas, eps
        Of AdamW, which moves embeddings, norms, biases, routers, heads and adapters.
    weight_decay : float
        λ, of both.
    clip : float or None
        The largest norm; 0 or None: no clipping.
    names : sequence of str, optional
        Patterns of the parameters that train; all unless given.

    Attributes
    ----------
    sums : Flat
        M of each matrix.
    adamw : AdamW
        The optimizer of the rest; None where there is no rest.
    steps : int
        The updates so far.

    Raises
    ------
    InputError
        For a setting out of its range, a pattern that fits no name, and a complex model.

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> optimizer = numgpt.Muon(model, weight_decay=0.0)
    >>> for step in range(50):
    ...     loss, grads = model.loss_and_grads([0, 1, 2, 3], [1, 2, 3, 4])
    ...     norm = optimizer.step(grads, lr=1e-2)
    >>> optimizer
    Muon: step 50, momentum 0.95, weight_decay 0.0, clip 1.0
      4 matrices of 192 numbers; AdamW: 96 parameters
    """

    @checked
    def __init__(
        self,
        model: GPT,
        momentum: BelowOne = 0.95,
        betas: tuple[BelowOne, BelowOne] = (0.9, 0.99),
        eps: Positive = 1e-8,
        weight_decay: AtLeastZero = 0.1,
        clip: AtLeastZero | None = 1.0,
        names: Sequence[str] | None = None,
    ) -> None:
        self.params = model.params
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.clip = clip
        self.names = names
        floats = self.params.shapes
        trained = floats if names is None else matching("Muon: names", names, floats)
        self._cuts = {n: cut for n, cut in matrix_parts(model.config).items() if n in trained and n in floats}
        self.sums = Flat({n: floats[n] for n in self._cuts}, self.params.dtype, like=self.params.flat)
        rest = [name for name in trained if name not in self._cuts]
        self.adamw = AdamW(model, betas, eps, weight_decay, clip, rest) if rest else None
        self.steps = 0

    @np.errstate(under="ignore")
    @checked
    def norm(self, grads: Mapping[str, Array]) -> float | Array:
        """The global norm of the gradients of what trains, as AdamW.norm."""
        flat = self._trained(grads)
        return engine.twin(global_norm, flat)(flat)

    @np.errstate(under="ignore")
    @checked
    def step(self, grads: Mapping[str, Array], lr: AtLeastZero, norm: Any = None) -> float | Array:
        """Update the parameters in place; arguments, value and errors are those of AdamW.step."""
        if norm is None:
            norm = self.norm(grads)
        self._expect_finite(grads, norm)
        if self.adamw is not None:  # first: it refuses before anything moves
            self.adamw.step({n: grads[n] for n in self.adamw.m}, lr, norm)
        factor = clip_factor(norm, self.clip, self.params.dtype) if self.clip else 1.0
        for name, cut in self._cuts.items():
            self._move(name, grads[name] * factor, cut, lr)
        self.steps += 1
        return norm

    def _move(self, name: str, grad: Array, cut: tuple[int, ...], lr: float) -> None:
        """One step of one matrix, or a stack of them, each of its maps by itself."""
        weight, total = self.params[name], self.sums[name]
        total *= self.momentum
        total += grad
        ahead = grad + self.momentum * total
        weight *= 1 - lr * self.weight_decay
        for part in _cuts_of(cut):
            step = orthogonalised(ahead[..., part])
            weight[..., part] -= (lr * ADAMW_RMS * math.sqrt(max(step.shape[-2:]))) * step
        mask = self.params.get(f"{name}_mask")
        if mask is not None:  # its gradient is 0, its part of a step that turns all directions is not
            weight *= mask != 0

    def state(self) -> dict[str, Array]:
        """momentum.<name> of each matrix, and m.<name> and v.<name> of the rest, in the host's memory."""
        sums = self.sums.to("reference")
        own = {f"momentum.{name}": sums[name] for name in sums}
        return own | ({} if self.adamw is None else self.adamw.state())

    @checked
    def load_state(self, arrays: Mapping[str, Array], steps: Count) -> None:
        """Take over a state that was saved after so many steps, as state() gives it.

        Raises
        ------
        InputError
            Where a name is missing, or a shape is another; the optimizer stays as it was then.
        """
        own = {name: array for name, array in arrays.items() if str(name).startswith("momentum.")}
        rest = {name: array for name, array in arrays.items() if name not in own}
        moments.expect("Muon.load_state", own, {"momentum": self.sums})
        if self.adamw is not None:
            self.adamw.load_state(rest, steps)
        elif rest:
            raise InputError(f"Muon.load_state: {min(rest)} is of no parameter here, expected momentum alone")
        for name in self.sums:
            self.sums[name] = own[f"momentum.{name}"]
        self.steps = steps

    def _trained(self, grads: Mapping[str, Array]) -> Array:
        """The gradients of what trains in one array; those of a Flat lie in it already."""
        if self.names is None and isinstance(grads, Flat) and grads.shapes == self.params.shapes:
            return grads.flat
        names = [*self._cuts, *(self.adamw.m if self.adamw is not None else ())]
        missing = next((name for name in names if name not in grads), None)
        if missing is not None:
            raise InputError(f"Muon: the gradient of {missing} is missing, expected one of each that trains")
        flat: Array = np.concatenate([grads[name].reshape(-1) for name in names])
        return flat

    def _expect_finite(self, grads: Mapping[str, Array], norm: Any) -> None:
        """Raise InputError for gradients that are not finite; on the GPU it is the Trainer that looks."""
        if engine.on_gpu(norm) or is_finite(norm):
            return
        bad = next((name for name in grads if not np.isfinite(grads[name]).all()), None)
        what = f"the norm is {norm}" if bad is None else f"the gradient of {bad} is not finite"
        raise InputError(
            f"Muon: {what}, expected finite numbers: nothing was updated; lower the learning rate"
        )

    def __copy__(self) -> Muon:
        """An optimizer of the same parameters with sums and moments of its own."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        vars(other)["sums"] = self.sums.astype(self.sums.dtype)
        vars(other)["adamw"] = copy.copy(self.adamw)
        return other

    def __repr__(self) -> str:
        rest = "" if self.adamw is None else f"; AdamW: {self.adamw.m.flat.size:,} parameters"
        return (
            f"Muon: step {self.steps}, momentum {self.momentum}, weight_decay {self.weight_decay},"
            f" clip {self.clip}\n  {len(self.sums)} matrices of {self.sums.flat.size:,} numbers{rest}"
        )


def _cuts_of(widths: Sequence[int]) -> Iterator[slice]:
    """The slices of these widths, side by side."""
    begin = 0
    for width in widths:
        yield slice(begin, begin + width)
        begin += width
