"""How far two right programs may part: what rounding does to every value and gradient of a model.

A program that computes an op in floating point gives what exact arithmetic would give at slightly other
inputs (Wilkinson 1963); in a sum of K terms, each of whose additions errs at random by half a unit u, they
are other by some u√K (Higham and Mary 2019). So the model is run in float64 with every input of an op moved
at random by that much, and every result by u; what this moves at a name is the size of the errors that a
right program may have there, with all that the model makes of them on the way.

Where an op takes almost all of a sum away again (the mean in LayerNorm, 1 + erf in GELU, log Σ exp in the
loss), moving its inputs moves both parts together, and shows nothing of what the rounding of either part
leaves: INSIDE adds that, for programs that do it in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from ..layers.layer import Layer
from ..ops.activations import (
    geglu,
    geglu_tanh,
    gelu,
    gelu_tanh,
    halves,
    reglu,
    relu,
    sigmoids,
    silu,
    swiglu,
)
from ..ops.losses import cross_entropy
from ..ops.norms import layernorm, rmsnorm
from .forms import Form, FormRecord, Run

# At which errors are propagated: small enough to be linear in it, large enough for float64 to carry.
UNIT = 2.0**-24
TIMES = 8  # of the root mean square error: what no rounding reaches, and the smallest mistake exceeds
DAMPING = float(np.finfo("float64").eps) / 2 / UNIT  # to float64's own unit: below it nothing can be carried
SMALL_MODEL = 2**20  # parameters: below, arrays of few numbers need many draws to show their error's size
Name = TypeVar("Name", bound=Hashable)


def unit(dtype: DTypeLike) -> float:
    """The largest relative error of one rounding: half the distance from 1 to the next number of a dtype."""
    return float(np.finfo(dtype).eps) / 2


def explained(
    form: Form, tokens: Any, targets: Any, dtype: DTypeLike, clean: Run | None = None, seed: int = 0
) -> dict[tuple[str, str], float]:
    """(stage, name) → the difference, root mean square over the array, that rounding in dtype explains.

    clean: the form's run in float64, where it is known. NaN where values are so large that a rounding of them
    makes others that are not finite.
    """
    clean = form.run(tokens, targets) if clean is None else clean
    draws = 16 if form.params.flat.size < SMALL_MODEL else 4

    def noisy(rng: np.random.Generator) -> dict[tuple[str, str], Any]:
        return form.run(tokens, targets, record=_with_noise(rng)).named()

    exact = clean.named()
    errors = spread(exact, noisy, draws, seed)
    if not all(map(math.isfinite, errors.values())):  # a softmax of scores of 1e10, moved by UNIT, overflows
        less = spread(exact, lambda rng: noisy(_Damped(rng.bit_generator)), draws, seed, UNIT * DAMPING)
        errors |= {key: less[key] / DAMPING for key, error in errors.items() if not math.isfinite(error)}
    tiny = float(np.finfo(dtype).tiny)  # below it numbers lose their digits
    return {key: error * unit(dtype) / UNIT + tiny for key, error in errors.items()}


def spread(
    exact: Mapping[Name, Any],
    noisy: Callable[[np.random.Generator], Mapping[Name, Any]],
    draws: int,
    seed: int,
    stored: float = UNIT,
) -> dict[Name, float]:
    """Name → TIMES the root mean square error of what noisy(rng) gives, against the exact arrays by name.

    What is stored is rounded once more, by stored, whatever came before.
    """
    sums = {name: draws * (stored * rms(array)) ** 2 for name, array in exact.items()}
    for draw in range(draws):
        erring = noisy(np.random.default_rng([seed, draw]))
        for name, array in exact.items():
            sums[name] += rms(erring[name] - array) ** 2
        del erring  # a model's gradients each time
    return {name: TIMES * (total / draws) ** 0.5 for name, total in sums.items()}


class _Damped(np.random.Generator):
    """A generator whose errors are those of float64: for values of which larger ones make no numbers."""

    def standard_normal(self, *args: Any, **options: Any) -> Any:
        """Normal numbers, times DAMPING."""
        return DAMPING * super().standard_normal(*args, **options)


def rms(array: Any) -> float:
    """The root mean square of an array, 0 for an empty one."""
    flat = np.asarray(array).reshape(-1)
    if not flat.size:
        return 0.0
    wide = np.result_type(flat, np.float64)
    blocks = (flat[i : i + 65536] for i in range(0, len(flat), 65536))  # so that no second array is as large
    return math.sqrt(sum(float(np.square(block, dtype=wide).sum()) for block in blocks) / flat.size)


def moved(array: Any, size: float, rng: np.random.Generator) -> Any:
    """An array of floats, each moved at random by a relative size; anything else as it is."""
    is_floats = isinstance(array, np.ndarray | np.generic) and array.dtype.kind == "f"
    if not is_floats:
        return array
    return array * (1 + size * rng.standard_normal(array.shape))


def _with_noise(rng: np.random.Generator) -> type[FormRecord]:
    """A kind of FormRecord whose ops err at random."""

    class Noisy(FormRecord):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.inside: dict[str, Any] = {}  # name → how many u an entry of dx errs, times dy

        def __call__(self, name: str, op: Any, *inputs: Any, **options: Any) -> Any:
            value = super().__call__(name, op, *inputs, **options)
            if op is None:
                return value
            value = moved(value, UNIT, rng)
            self.value[self.scope + name] = value
            return value

        def run(self, full: str, op: Any, arrays: Any, options: dict[str, Any]) -> tuple[Any, Any]:
            n = len(arrays) - len(op.parameters)
            K = max((a.shape[-1] for a in arrays[:n] if a.dtype.kind == "f"), default=1)
            given = (*(moved(a, UNIT * K**0.5, rng) for a in arrays[:n]), *arrays[n:])
            value, saved = super().run(full, op, given, options)
            saved = _stored(saved, given, rng)
            if op in INSIDE:
                value, saved, self.inside[full] = INSIDE[op](rng, given, value, saved)
            return value, saved

        def back(self, name: str, dy: Any) -> Any:
            full = self.scope + name
            if self.ops[full] is None:
                return dy
            if not isinstance(self._entries[full].op, Layer) and dy.ndim:
                # its inputs' gradients are sums over channels, those of its weights over rows
                K = max(dy.shape[-1], dy.size // dy.shape[-1])
                dy = moved(dy, UNIT * K**0.5, rng)
            dx = super().back(name, dy)
            if full not in self.inside:
                return dx
            if dy.shape[-1:] != dx.shape[-1:]:  # a gate and a value have one result, a loss is one number
                dy = np.concatenate([dy, dy], axis=-1) if dy.ndim else dy
            return dx + UNIT * self.inside[full] * dy * rng.standard_normal(dx.shape)

    return Noisy


def _stored(saved: Any, given: tuple[Any, ...], rng: np.random.Generator) -> Any:
    """What a forward saved, rounded: all that it computed, but not the arrays that it was given."""
    if isinstance(saved, tuple):
        parts = (_stored(part, given, rng) for part in saved)
        return type(saved)(*parts) if hasattr(saved, "_fields") else tuple(parts)
    return saved if any(saved is a for a in given) else moved(saved, UNIT, rng)


# What rounds inside an op: (value, saved, how many u an entry of its backward's dx errs, times dy).
Noise = tuple[Any, Any, Any]


def _layernorm(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
    """The mean is a sum of C terms, whose error is the same in all channels: x̂ + ε with ε = u√C |μ| r.

    dx is r g without its mean and its part along x̂, however little that leaves; a program that computes
    Σ g x − μ Σ g for Σ g (x − μ), as PyTorch does, errs by (μ r)² times that.
    """
    (x, weight, _), (xhat, rstd, *rest) = given, saved
    shift = x.mean(-1, keepdims=True) * rstd
    error = UNIT * x.shape[-1] ** 0.5 * shift * rng.standard_normal(rstd.shape)
    return value + error * weight, (xhat + error, rstd, *rest), rstd * weight * (1 + shift * shift)


def _rmsnorm(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
    """dx is r g without its part along x̂, however little that leaves."""
    (_, weight), (_, rstd, _) = given, saved
    return value, saved, rstd if weight is None else rstd * weight


def _gelu(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
    """½ (1 + erf) errs by ½ u however small it is; it is a factor of the value, a term of the derivative."""
    return value + 0.5 * UNIT * given[0] * rng.standard_normal(value.shape), saved, 0.5


def _gelu_tanh(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
    """½ (1 + tanh) as in _gelu; the derivative has ½ x (1 − tanh²) times a slope, which errs by u too."""
    (x,) = given
    value, saved, half = _gelu(rng, given, value, saved)
    return value, saved, half * (1 + np.abs(x) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x))


def _silu(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
    """1 − σ errs by ½ u where it is subtracted, until σ is 1; the slope has it x σ times, beside a term σ."""
    (x,) = given
    return value, saved, 0.5 * sigmoids(x)[0] * (1 + np.minimum(np.abs(x), -math.log(UNIT)))


def _relu(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
    """Whether an entry near 0 passes is chance, and a whole gradient depends on it."""
    (x,) = given
    band = 4 * UNIT * x.shape[-1] ** 0.5 * rms(x)
    return value, (x + band * rng.standard_normal(x.shape) > 0,), 0.0


def _gated(activation: Any, noise: Callable[..., Noise]) -> Callable[..., Noise]:
    """What rounds in the activation of a gate, times the value that the gate lets through.

    The value's own gradient is dy times the activation, computed again.
    """

    def inside(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
        gate, passed = halves(given[0])
        act, kept = activation.forward(gate)
        erring, _, slope = noise(rng, (gate,), act, kept)
        again = np.abs(act) if erring is act else 0.5 * np.abs(gate)
        return erring * passed, saved, np.concatenate([slope * np.abs(passed), again], axis=-1)

    return inside


def _reglu(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
    """Whether a gate near 0 lets its value through is chance, as in _relu."""
    gate, passed = halves(given[0])
    band = 4 * UNIT * given[0].shape[-1] ** 0.5 * rms(gate)
    moved_gate = gate + band * rng.standard_normal(gate.shape)
    return value, (np.concatenate([moved_gate, passed], axis=-1),), 0.0


def _cross_entropy(rng: np.random.Generator, given: Any, value: Any, saved: Any) -> Noise:
    """Each row's log Σ exp − logit errs by u of what is subtracted, and by u of 1, however small the loss.

    So does each probability, from which its backward takes 1 at the target.
    """
    (logits, _), (_, _, top, total, count) = given, saved
    error = UNIT * math.sqrt(float(((1 + np.abs(top)) ** 2).sum())) / count * rng.standard_normal()
    top, total = (a.reshape(*logits.shape[:-1], 1) for a in (top, total))
    return value + error, saved, np.exp(logits - top) / total / count


INSIDE: dict[Any, Callable[..., Noise]] = {
    layernorm: _layernorm,
    rmsnorm: _rmsnorm,
    gelu: _gelu,
    gelu_tanh: _gelu_tanh,
    silu: _silu,
    relu: _relu,
    swiglu: _gated(silu, _silu),
    geglu: _gated(gelu, _gelu),
    geglu_tanh: _gated(gelu_tanh, _gelu_tanh),
    reglu: _reglu,
    cross_entropy: _cross_entropy,
}
