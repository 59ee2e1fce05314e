"""How far two right programs may part: what rounding of each op's inputs and result does to every value and gradient.

A program that computes an op in floating point gives what exact arithmetic would give at slightly other inputs (Wilkinson 1963);
in a sum of K terms, each of whose additions errs at random by half a unit u, they are other by some u√K (Higham and Mary 2019).
So the model is run in float64 with every input of an op moved at random by that much, and every result by u; what this moves
at a name is the size of the errors that a right program may have there, with all that the model makes of them on the way.
"""

import math

import numpy as np

from ..record import Layer
from .forms import FormRecord

UNIT = 2.0**-24  # at which errors are propagated: small enough to be linear in it, large enough for float64 to carry
TIMES = 8  # of the root mean square error: what no rounding reaches, and the smallest mistake exceeds


def unit(dtype):
    """Half of the distance from 1 to the next number of a dtype: the largest relative error of one rounding."""
    return float(np.finfo(dtype).eps) / 2


def explained(form, tokens, targets, dtype, clean=None, draws=4, seed=0):
    """(values, grads, updated): name -> the difference, root mean square over the array, that rounding in dtype explains.

    clean: the form's run in float64, where it is known.
    """
    clean = form.run(tokens, targets) if clean is None else clean
    # What is stored is rounded once more, whatever came before.
    sums = [{name: draws * (UNIT * rms(array)) ** 2 for name, array in part.items()} for part in _parts(clean)]
    for draw in range(draws):
        noisy = form.run(tokens, targets, record=_with_noise(np.random.default_rng([seed, draw])))
        for total, exact, erring in zip(sums, _parts(clean), _parts(noisy)):
            for name, array in exact.items():
                total[name] += rms(erring[name] - array) ** 2
        del noisy, erring  # a model's gradients each time
    scale = TIMES * unit(dtype) / UNIT
    return tuple({name: scale * (total / draws) ** 0.5 for name, total in part.items()} for part in sums)


def rms(array):
    """The root mean square of an array."""
    flat = np.asarray(array).reshape(-1)
    blocks = (flat[i : i + 65536] for i in range(0, len(flat), 65536))  # no array of squares as large as it
    return math.sqrt(sum(float(np.square(b, dtype=np.result_type(b, np.float64)).sum()) for b in blocks) / flat.size) if flat.size else 0.0


def moved(array, size, rng):
    """An array of floats, each moved at random by a relative size; others as they are."""
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind != "f":
        return array
    return array * (1 + size * rng.standard_normal(array.shape))


def _parts(run):
    return run.values, run.grads, run.updated


def _with_noise(rng):
    """A kind of FormRecord whose ops err at random."""

    class Noisy(FormRecord):
        def __call__(self, name, op, *inputs, **options):
            value = moved(super().__call__(name, op, *inputs, **options), UNIT, rng)
            self.value[self.scope + name] = value
            return value

        def run(self, full, op, arrays, options):
            n = len(arrays) - len(op.parameters)
            K = max((a.shape[-1] for a in arrays[:n] if a.dtype.kind == "f"), default=1)
            return super().run(full, op, (*(moved(a, UNIT * K**0.5, rng) for a in arrays[:n]), *arrays[n:]), options)

        def back(self, name, dy):
            if not isinstance(self._entries[self.scope + name].op, Layer) and dy.ndim:
                K = max(dy.shape[-1], dy.size // dy.shape[-1])  # sums over channels for its inputs, over rows for its weights
                dy = moved(dy, UNIT * K**0.5, rng)
            return super().back(name, dy)

    return Noisy
