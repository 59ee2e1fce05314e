"""How far two right programs may part: what rounding of each op's inputs and result does to every value and
gradient.

A program that computes an op in floating point gives what exact arithmetic would give at slightly other
inputs (Wilkinson 1963); in a sum of K terms, each of whose additions errs at random by half a unit u, they
are other by some u√K (Higham and Mary 2019). So the model is run in float64 with every input of an op moved
at random by that much, and every result by u; what this moves at a name is the size of the errors that a
right program may have there, with all that the model makes of them on the way.

Where an op takes almost all of a sum away again (the mean in LayerNorm, 1 + erf in GELU, log Σ exp in the
loss), moving its inputs
moves both parts together and shows nothing of what rounding of either part leaves: INSIDE adds that, for
programs that differ in the order in which they do it.
"""

import math

import numpy as np

from ..layers.layer import Layer
from ..ops import cross_entropy, gelu, gelu_tanh, layernorm, relu
from .forms import FormRecord

UNIT = (
    2.0**-24
)  # at which errors are propagated: small enough to be linear in it, large enough for float64 to carry
TIMES = 8  # of the root mean square error: what no rounding reaches, and the smallest mistake exceeds


def unit(dtype):
    """Half of the distance from 1 to the next number of a dtype: the largest relative error of one rounding."""
    return float(np.finfo(dtype).eps) / 2


def explained(form, tokens, targets, dtype, clean=None, seed=0):
    """(stage, name) -> the difference, root mean square over the array, that rounding in dtype explains.

    clean: the form's run in float64, where it is known.
    """
    clean = form.run(tokens, targets) if clean is None else clean
    draws = (
        16 if form.params.flat.size < 2**20 else 4
    )  # an array of few numbers tells its error's size by many draws only
    found = spread(
        clean.named(), lambda rng: form.run(tokens, targets, record=_with_noise(rng)).named(), draws, seed
    )
    return {
        key: found[key] * unit(dtype) / UNIT + float(np.finfo(dtype).tiny) for key in found
    }  # below tiny numbers lose their digits


def spread(exact, noisy, draws, seed):
    """Name -> TIMES the error, root mean square, that noisy(rng) shows beside what is exact, both mappings
    name -> array.

    What is stored is rounded once more, whatever came before.
    """
    sums = {name: draws * (UNIT * rms(array)) ** 2 for name, array in exact.items()}
    for draw in range(draws):
        erring = noisy(np.random.default_rng([seed, draw]))
        for name, array in exact.items():
            sums[name] += rms(erring[name] - array) ** 2
        del erring  # a model's gradients each time
    return {name: TIMES * (total / draws) ** 0.5 for name, total in sums.items()}


def rms(array):
    """The root mean square of an array."""
    flat = np.asarray(array).reshape(-1)
    blocks = (flat[i : i + 65536] for i in range(0, len(flat), 65536))  # no array of squares as large as it
    return (
        math.sqrt(
            sum(float(np.square(b, dtype=np.result_type(b, np.float64)).sum()) for b in blocks) / flat.size
        )
        if flat.size
        else 0.0
    )


def moved(array, size, rng):
    """An array of floats, each moved at random by a relative size; others as they are."""
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind != "f":
        return array
    return array * (1 + size * rng.standard_normal(array.shape))


def _with_noise(rng):
    """A kind of FormRecord whose ops err at random."""

    class Noisy(FormRecord):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.inside = {}  # name -> how many u an entry of dx errs, times dy

        def __call__(self, name, op, *inputs, **options):
            value = moved(super().__call__(name, op, *inputs, **options), UNIT, rng)
            self.value[self.scope + name] = value
            return value

        def run(self, full, op, arrays, options):
            n = len(arrays) - len(op.parameters)
            K = max((a.shape[-1] for a in arrays[:n] if a.dtype.kind == "f"), default=1)
            given = (*(moved(a, UNIT * K**0.5, rng) for a in arrays[:n]), *arrays[n:])
            value, saved = super().run(full, op, given, options)
            saved = _stored(saved, given, rng)
            if op in INSIDE:
                value, saved, self.inside[full] = INSIDE[op](rng, given, value, saved)
            return value, saved

        def back(self, name, dy):
            full = self.scope + name
            if not isinstance(self._entries[full].op, Layer) and dy.ndim:
                K = max(
                    dy.shape[-1], dy.size // dy.shape[-1]
                )  # sums over channels for its inputs, over rows for its weights
                dy = moved(dy, UNIT * K**0.5, rng)
            dx = super().back(name, dy)
            return (
                dx + UNIT * self.inside[full] * dy * rng.standard_normal(dx.shape)
                if full in self.inside
                else dx
            )

    return Noisy


def _stored(saved, given, rng):
    """What a forward saved, rounded: all that it computed, not the arrays that it was given."""
    if isinstance(saved, tuple):
        return tuple(_stored(part, given, rng) for part in saved)
    return saved if any(saved is a for a in given) else moved(saved, UNIT, rng)


def _layernorm(rng, given, value, saved):
    """The mean is a sum of C terms, whose error is the same in all channels: x̂ + ε with ε = u√C |μ| r.

    dx is r g without its mean and its part along x̂, however little that leaves; a program that has Σ g x − μ
    Σ g for Σ g (x − μ), as PyTorch's, errs by (μ r)² times that.
    """
    (x, weight, _), (xhat, rstd, *rest) = given, saved
    shift = x.mean(-1, keepdims=True) * rstd
    error = UNIT * x.shape[-1] ** 0.5 * shift * rng.standard_normal(rstd.shape)
    return value + error * weight, (xhat + error, rstd, *rest), rstd * weight * (1 + shift * shift)


def _gelu(rng, given, value, saved):
    """½ (1 + erf) errs by ½ u however small it is; x times that is the value, and the derivative has it as a
    term.
    """
    return value + 0.5 * UNIT * given[0] * rng.standard_normal(value.shape), saved, 0.5


def _gelu_tanh(rng, given, value, saved):
    """½ (1 + tanh) as in _gelu; the derivative has ½ x (1 − tanh²) times the slope of tanh's argument, with
    an error of u there too.
    """
    (x,) = given
    value, saved, half = _gelu(rng, given, value, saved)
    return value, saved, half * (1 + np.abs(x) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x))


def _relu(rng, given, value, saved):
    """Whether an entry near 0 is let through is chance, and a whole gradient: the more entries are tried, the
    surer one is met.
    """
    (x,) = given
    band = 4 * UNIT * x.shape[-1] ** 0.5 * rms(x)
    return value, (x + band * rng.standard_normal(x.shape) > 0,), 0.0


def _cross_entropy(rng, given, value, saved):
    """Each row's log Σ exp − logit errs by u of what is subtracted, and by u of 1 in the logarithm's
    argument, however small the loss.

    So does each probability, from which its backward takes 1 at the target.
    """
    (logits, _), (_, _, top, total, count) = given, saved
    error = UNIT * math.sqrt(float(((1 + np.abs(top)) ** 2).sum())) / count * rng.standard_normal()
    return (
        value + error,
        saved,
        np.exp(logits - top.reshape(*logits.shape[:-1], 1)) / total.reshape(*logits.shape[:-1], 1) / count,
    )


# An op -> what rounds inside its forward: (value, saved, how many u an entry of its backward's dx errs, times
# dy).
INSIDE = {
    layernorm: _layernorm,
    gelu: _gelu,
    gelu_tanh: _gelu_tanh,
    relu: _relu,
    cross_entropy: _cross_entropy,
}
