"""AdamW with clipping over the flat buffer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import engine
from ..architecture.parameters import Flat
from ..architecture.patterns import matching
from ..argument_kinds import is_finite
from ..arguments import AtLeastZero, BelowOne, Count, HeldAttributes, Positive, checked
from ..errors import InputError
from ..model.gpt import GPT
from . import moments

REAL = (np.dtype("float32"), np.dtype("float64"))  # dtypes that the twins take beside each other
BLOCK = 65536  # numbers whose squares are added up at once


class AdamW(HeldAttributes):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), on matrices only.

    For step t, with gradient g clipped to a global norm of at most clip:

        m ← β₁ m + (1 − β₁) g          m̂ = m / (1 − β₁ᵗ)
        v ← β₂ v + (1 − β₂) g²         v̂ = v / (1 − β₂ᵗ)
        w ← w − lr λ w                 matrices only; norms and biases are not pulled to 0
        w ← w − lr m̂ / (√v̂ + eps)

    Parameters
    ----------
    model : GPT or Flat
        A model, or the Flat of its parameters.
    betas : (float, float)
        β₁ and β₂, each at least 0 and less than 1.
    eps : float
        Larger than 0.
    weight_decay : float
        λ.
    clip : float or None
        The largest norm; 0 or None: no clipping.
    names : sequence of str, optional
        Patterns of the parameters that train, such as "h.*.mlp.c_fc.weight"; all unless given. The others
        stay where they are, have no moments, and do not count in the norm.

    Attributes
    ----------
    m, v : Flat
        The moments of what trains.
    runs : list of (slice, slice)
        Parts of params.flat that step moves, each with its part of the moments.
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
    >>> optimizer = numgpt.AdamW(model, weight_decay=0.0)
    >>> for step in range(50):
    ...     loss, grads = model.loss_and_grads([0, 1, 2, 3], [1, 2, 3, 4])
    ...     norm = optimizer.step(grads, lr=1e-2)
    >>> optimizer
    AdamW: step 50, betas (0.9, 0.99), eps 1e-08, weight_decay 0.0, clip 1.0
      288 parameters, 228 of them decayed
    """

    @checked
    def __init__(
        self,
        model: GPT | Flat,
        betas: tuple[BelowOne, BelowOne] = (0.9, 0.99),
        eps: Positive = 1e-8,
        weight_decay: AtLeastZero = 0.1,
        clip: AtLeastZero | None = 1.0,
        names: Sequence[str] | None = None,
    ) -> None:
        self.params = model if isinstance(model, Flat) else model.params
        if self.params.dtype.kind == "c":
            raise InputError(
                f"AdamW: the parameters are {self.params.dtype}, expected real ones: complex models are for"
                " derivatives"
            )
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.clip = clip
        self.names = names
        floats = self.params.shapes  # masks and rounded weights have no gradient
        trained = floats if names is None else matching("AdamW: names", names, floats)
        shapes = {name: floats[name] for name in trained}
        self.m, self.v = (Flat(shapes, self.params.dtype, like=self.params.flat) for _ in range(2))
        self.runs = parts_that_train(self.params, self.m)
        self.steps = 0

    @np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
    @checked
    def norm(self, grads: Mapping[str, NDArray[Any]]) -> float | NDArray[Any]:
        """The global norm of the gradients of what trains; not finite where one of them is not.

        On the GPU it is an array () that lies there, so that nothing waits for it.
        """
        g = self._flat(grads)
        return engine.twin(global_norm, g)(g)

    @np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
    @checked
    def step(
        self, grads: Mapping[str, NDArray[Any]], lr: AtLeastZero, norm: Any = None
    ) -> float | NDArray[Any]:
        """Update the parameters in place.

        Parameters
        ----------
        grads : mapping of name -> array
            As from loss_and_grads; not written to. Those of what does not train may be left out.
        lr : float
            The learning rate of this step.
        norm : float or array (), optional
            The gradients' global norm, as norm() gives it, where it is known.

        Returns
        -------
        float, or array () on the GPU
            The gradients' norm before clipping.

        Raises
        ------
        InputError
            Where the names or shapes of grads are not the parameters', or where one of them is not finite: it
            is named, and nothing is updated. On the GPU nothing waits for the answer, so there it is the
            Trainer that looks.
        """
        g = self._flat(grads)
        if norm is None:
            norm = engine.twin(global_norm, g)(g)
        elif not engine.on_gpu(norm) and not _is_norm(norm):
            raise InputError(
                f"AdamW.step: norm is {norm!r}, expected a number of 0 or more, as norm() gives it"
            )
        if not engine.on_gpu(norm):
            self._expect_finite(g, norm)
        clip = clip_factor(norm, self.clip, g.dtype) if self.clip else 1.0
        if not engine.on_gpu(norm):
            self._expect_squares(norm * clip)
        w = self.params.flat
        if not (engine.on_gpu(w) or w.flags.writeable):
            raise InputError(
                "AdamW: the parameters are read-only, expected writable ones: give the model a copy of them"
            )
        self.steps += 1
        settings = (self.betas, self.eps, self.weight_decay, clip, lr, self.steps)
        m, v = self.m.flat, self.v.flat
        for whole, own in self.runs:
            decayed = max(0, min(whole.stop, self.params.decayed.size) - whole.start)
            engine.twin(adamw, w)(w[whole], g[own], m[own], v[own], decayed, *settings)
        return norm

    @checked
    def moves_only(self, part: slice) -> None:
        """From here on move only a part of what trains, in the moments' order: other processes move the rest.

        The gradients of that part alone are read, and the norm of all has to be given.
        """
        self.runs = cut(parts_that_train(self.params, self.m), part)

    def state(self) -> dict[str, NDArray[Any]]:
        """The moments, m.<name> and v.<name>, in the host's memory: what a resumed run goes on from.

        Raises
        ------
        InputError
            Where something wrote a negative number into v.
        """
        return moments.named({"m": self.m.to("reference"), "v": self.v.to("reference")})

    @checked
    def load_state(self, arrays: Mapping[str, NDArray[Any]], steps: Count) -> None:
        """Take over moments that were saved after so many steps; those of masked weights are 0.

        Parameters
        ----------
        arrays : mapping of name -> array
            As state() gives it.
        steps : int

        Raises
        ------
        InputError
            Where a name is missing, a shape is not the moment's, or a number of v is negative. The optimizer
            stays as it was then.
        """
        moments.expect("AdamW.load_state", arrays, {"m": self.m, "v": self.v})
        for name in self.m:
            self.m[name] = arrays[f"m.{name}"]
            self.v[name] = arrays[f"v.{name}"]
            mask = self.params.get(f"{name}_mask")
            if mask is not None:  # moments of before the pruning would move what is masked
                self.m[name] *= mask != 0
                self.v[name] *= mask != 0
        self.steps = steps

    def _flat(self, grads: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Gradients of what trains as one array in the moments' order; those of a Flat lie in it already."""
        dtype, own = self.params.dtype, self.m
        if isinstance(grads, Flat):
            shapes = [*grads.shapes.items()]
            flat = grads.flat if shapes == [*own.shapes.items()] else None
            if flat is None and shapes == [*self.params.shapes.items()]:
                runs = parts_that_train(self.params, own)
                flat = np.concatenate([grads.flat[whole] for whole, _ in runs])
            if flat is not None:
                self._expect_real(flat.dtype)
                return flat if flat.dtype in (dtype, *REAL) else flat.astype(dtype)
        unmatched = sorted(map(str, {*own} - {*grads} | {*grads} - {*self.params}))
        if unmatched:
            raise InputError(
                f"AdamW: the gradients' names differ from the parameters' at {', '.join(unmatched[:3])},"
                " expected the same names"
            )
        packed = own.like()
        for name in own:
            grad = grads[name]
            if np.shape(grad) != self.params.shapes[name]:
                raise InputError(
                    f"AdamW: the gradient of {name} has shape {np.shape(grad)}, expected"
                    f" {self.params.shapes[name]} as the parameter"
                )
            self._expect_real(getattr(grad, "dtype", dtype))
            packed[name] = grad
        return packed.flat

    def _expect_real(self, dtype: np.dtype[Any]) -> None:
        if dtype.kind == "c":
            raise InputError(f"AdamW: the gradients are {dtype}, expected real numbers: take their real part")

    def _expect_finite(self, g: NDArray[Any], norm: Any) -> None:
        """Raise InputError where the norm of gradients is not finite, with the first name at fault."""
        if is_finite(norm):
            return
        bad = Flat(self.m.shapes, g.dtype, g).first_not_finite()
        what = (
            f"the norm of the gradients is {norm}" if bad is None else f"the gradient of {bad} is not finite"
        )
        raise InputError(
            f"AdamW: {what}, expected finite numbers: nothing was updated; lower the learning rate, or look"
            " for what is too large with model.record"
        )

    def _expect_squares(self, norm: float) -> None:
        """Raise InputError where g² might overflow: v would be ∞, and the parameter never move again."""
        dtype = self.params.dtype
        if norm > float(np.finfo(dtype).max) ** 0.5:
            raise InputError(
                f"AdamW: the norm of the gradients is {norm:.1e}, whose square overflows {dtype}, expected"
                " less: nothing was updated; give the optimizer a clip, or lower the learning rate"
            )

    def __copy__(self) -> AdamW:
        """An optimizer of the same parameters with moments of its own, which belong to its steps."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        for name in ("m", "v"):
            moments = getattr(self, name)
            vars(other)[name] = moments.astype(moments.dtype)
        return other

    def __repr__(self) -> str:
        settings = f"betas {self.betas}, eps {self.eps}, weight_decay {self.weight_decay}, clip {self.clip}"
        of = "" if self.names is None else f" of {self.params.flat.size:,}"
        sizes = f"{self.m.flat.size:,}{of} parameters, {self.m.decayed.size:,} of them decayed"
        return f"AdamW: step {self.steps}, {settings}\n  {sizes}"


def parts_that_train(params: Flat, trained: Flat) -> list[tuple[slice, slice]]:
    """(a part of params.flat, the part of trained.flat that belongs to it), as few as there may be."""
    runs: list[tuple[slice, slice]] = []
    for name, own in trained.places.items():
        whole = params.places[name]
        if runs and runs[-1][0].stop == whole.start:
            before = runs.pop()
            whole, own = slice(before[0].start, whole.stop), slice(before[1].start, own.stop)
        runs.append((whole, own))
    return runs


def cut(runs: Sequence[tuple[slice, slice]], part: slice) -> list[tuple[slice, slice]]:
    """What of parts_that_train lies in a part of what trains.

    >>> cut([(slice(4, 8), slice(0, 4)), (slice(20, 26), slice(4, 10))], slice(3, 6))
    [(slice(7, 8, None), slice(3, 4, None)), (slice(20, 22, None), slice(4, 6, None))]
    """
    inside = []
    for whole, own in runs:
        begin, end = max(own.start, part.start), min(own.stop, part.stop)
        if begin < end:
            offset = whole.start - own.start
            inside.append((slice(begin + offset, end + offset), slice(begin, end)))
    return inside


def _is_norm(norm: Any) -> bool:
    """Whether something may be a norm; NaN and infinity are told of with the gradient at fault."""
    number = norm.item() if isinstance(norm, np.generic | np.ndarray) and norm.shape == () else norm
    return isinstance(number, int | float) and not isinstance(number, bool) and not number < 0


def clip_factor(norm: Any, clip: float, dtype: DTypeLike) -> Any:
    """What gradients of a norm are scaled by, so that theirs is clip at most.

    On the GPU it is an array that lies there, because a comparison on the host would wait for the norm.
    """
    if engine.on_gpu(norm):
        return (clip / np.fmax(norm, clip)).astype(
            dtype
        )  # fmax: a norm of NaN scales nothing, as on the host
    return clip / norm if norm > clip else 1.0


# What has twins is written without types, as the twins are: their signatures are held to be equal.
def adamw(w, g, m, v, decayed, betas, eps, weight_decay, clip, lr, t):  # type: ignore[no-untyped-def]
    """Step t = 1, 2, … of AdamW in place on w, m and v (N), whose first `decayed` entries decay.

    The equations are those of AdamW. clip is what the gradient g is scaled by: a number or, on the GPU, an
    array () of w's dtype.
    """
    beta1, beta2 = betas
    if engine.on_gpu(clip) or clip != 1:  # asked in this order: on the GPU the comparison would wait
        g = g * clip
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    w[:decayed] *= 1 - lr * weight_decay
    w -= m / (np.sqrt(v / (1 - beta2**t)) + eps) * (lr / (1 - beta1**t))


def global_norm(flat):  # type: ignore[no-untyped-def]
    """√Σ g² over a flat buffer, added up in float64 in blocks of a fixed size.  (N,) → float, on the GPU ()

    The size is fixed, so that the bits do not depend on the machine.
    """
    sums = block_squares(flat)
    return np.sqrt(sum(sums)) if engine.on_gpu(flat) else math.sqrt(sum(sums))


def block_squares(flat):  # type: ignore[no-untyped-def]
    """Σ g² of each block of a flat buffer, in float64.  (N,) → list of floats, on the GPU of arrays ()"""
    blocks = (flat[i : i + BLOCK].astype(np.float64) for i in range(0, len(flat), BLOCK))
    return [b @ b if engine.on_gpu(flat) else float(b @ b) for b in blocks]
