"""When does a model store more features than it has dimensions, and what does it pay?

Elhage et al. 2022, "Toy Models of Superposition": n features x ≥ 0, each there with probability p, go through
m < n dimensions and come back.

    h = x W,  y = relu(h Wᵀ + b),  L = ½ ⟨Σ_i c_i (y_i − x_i)²⟩        W (n, m), c_i the importance of i

Where all features are there at once, the best that can be done is to keep the m most important ones and to
drop the rest, as principal components do. Where features are rare, more of them are kept than there are
dimensions: their directions are not orthogonal any more, so one feature looks a little like another, and b
and relu cut that off. Without relu there is no such thing, however rare features are.

What it does not show: that features of a language model are stored so, nor that they are rare, nor what they
are.

    python superposition.py --plot picture.svg    ten seconds
"""

import argparse
from typing import NamedTuple

import numpy as np
import picture

import numgpt
from numgpt import Record, gradcheck
from numgpt.architecture.parameters import Flat
from numgpt.layers.layer import Layer
from numgpt.ops import Op, linear, relu, shift, unembedding

N, M = 20, 5
DENSITIES = (1.0, 0.3, 0.1, 0.03, 0.01)
IMPORTANCE = 0.9 ** np.arange(N)


def weighted_square_forward(y, x, c):
    """L = ½ ⟨Σ_i c_i (y_i − x_i)²⟩, the mean over rows.  y, x (B, n), c (n) → ()"""
    e = y - x
    return 0.5 * (c * e * e).sum() / len(y), (e, c)


def weighted_square_backward(dL, saved):
    """dy = dL c (y − x) / B because ∂½e²/∂e = e; dx = −dy; dc = dL ½ ⟨e²⟩ because L is linear in c."""
    e, c = saved
    dy = dL * c * e / len(e)
    return dy, -dy, dL * 0.5 * (e * e).sum(0) / len(e)


weighted_square = Op("BC, BC, C -> ()", weighted_square_forward, weighted_square_backward)


def toy_forward(r, x, c, has_relu=True):
    """The loss of what comes back.  x (B, n), c (n) → ()"""
    h = r("features", linear, x)
    y = r("back", unembedding, h, shares="features")
    y = r("shifted", shift, y)
    y = r("act", relu if has_relu else None, y)
    return r("loss", weighted_square, y, x, c)


def toy_backward(r, dL):
    """Sends gradients to W, which is used twice, and to b; features have been drawn and get none."""
    dy, _, _ = r.back("loss", dL)
    dy = r.back("act", dy)
    dy = r.back("shifted", dy)
    dh = r.back("back", dy)
    r.back("features", dh)


toy = Layer(toy_forward, toy_backward)


def pair_of(x):
    """The toy's loss on given features as a pair of functions of W and b, for the checker."""

    def forward(weight, bias):
        record = Record({"features.weight": weight, "shifted.bias": bias}, None, keep=True)
        return toy.forward(record, x.astype(weight.dtype), IMPORTANCE.astype(weight.dtype)), record

    def backward(dL, record):
        grads = {name: np.zeros_like(array) for name, array in record.params.items()}
        record.start_backward(grads)
        toy.backward(record, dL)
        return tuple(grads.values())

    return forward, backward


def drawn(rng, rows, p):
    """Features, each there with probability p and then even from 0 to 1."""
    return rng.random((rows, N)) * (rng.random((rows, N)) < p)


class Found(NamedTuple):
    """What a trained toy is: its W, and its loss on features that it has not seen."""

    W: np.ndarray
    loss: float


def train(p, steps, has_relu=True):
    """Learn W and b at a density p."""
    rng = np.random.default_rng(0)
    params = Flat({"features.weight": (N, M), "shifted.bias": (N,)}, "float64")
    params["features.weight"][...] = 0.3 * rng.standard_normal((N, M))
    grads = params.like()
    optimizer = numgpt.AdamW(params, weight_decay=0.0, clip=0)
    training = numgpt.Training(steps=steps, lr=1e-2, min_lr=1e-4, warmup=20)
    one = np.ones(())
    for step in range(steps):
        record = Record(params, None, grads=grads)
        toy.forward(record, drawn(rng, 512, p), IMPORTANCE, has_relu)
        toy.backward(record, one)
        optimizer.step(grads, lr=numgpt.learning_rate(step, training))
    test = drawn(np.random.default_rng(1), 200_000, p)
    loss = toy.forward(Record(params, None), test, IMPORTANCE, has_relu)
    return Found(params["features.weight"].copy(), float(loss))


def dropped(p):
    """The loss where the m most important features come back exactly, and of others their mean.

    x is even on 0 to 1 with probability p: ⟨x²⟩ = p/3, ⟨x⟩ = p/2.
    """
    return 0.5 * IMPORTANCE[M:].sum() * (p / 3 - p * p / 4)


def stored(W):
    """How many features have a direction of their own length: |W_i|² > ½."""
    return int(((W * W).sum(-1) > 0.5).sum())


def interference(W):
    """How much of the others each stored feature reads, Σ_{j≠i} (Ŵ_i · W_j)²; the mean over them."""
    sizes = np.sqrt((W * W).sum(-1))
    is_stored = sizes > 0.5**0.5
    overlap = (W / np.maximum(sizes, 1e-9)[:, None]) @ W.T
    np.fill_diagonal(overlap, 0)
    return float((overlap[is_stored] ** 2).sum(-1).mean())


def draw(figure, found):
    """W Wᵀ by density: on the diagonal how long a feature's direction is, beside it what features share."""
    axes = figure.subplots(1, len(found))
    for ax, (p, toy_of_p) in zip(axes, found.items()):
        image = ax.imshow(toy_of_p.W @ toy_of_p.W.T, cmap="RdBu", vmin=-1.5, vmax=1.5)
        ax.set(title=f"p = {p}", xticks=[], yticks=[])
        ax.title.set_fontsize(9)
    axes[0].set(ylabel="feature, most important first")
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="W Wᵀ")


def main(argv=None):
    """Hold the gradients to the laws, then learn at each density, with relu and without."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1500, help="of each training (default: 1500)")
    picture.add_flag(parser)
    args = parser.parse_args(argv)
    show = picture.to(args.plot, title=__doc__.partition("\n")[0])
    numgpt.set_threads(1)  # the arrays are small
    rng = np.random.default_rng(2)
    W, b = rng.standard_normal((N, M)), rng.standard_normal(N)
    worst = max(finding.residual for finding in gradcheck.check(*pair_of(drawn(rng, 4, 0.7)), W, b))
    print(f"gradients of the toy keep all laws, to {worst:.0e}\n")

    print(f"{N} features, {M} dimensions   with relu                            without")
    columns = f"{'stored':>12}{'interference':>14}{'loss':>7}"
    print(f"{'each there with':15}{columns}     {columns}")
    found, plain = {}, {}
    for p in DENSITIES:
        found[p], plain[p] = train(p, args.steps), train(p, args.steps, has_relu=False)
        a, b = (
            f"{stored(toy_of_p.W):12}{interference(toy_of_p.W):14.4f}{toy_of_p.loss / dropped(p):7.3f}"
            for toy_of_p in (found[p], plain[p])
        )
        print(f"{p:15}{a}     {b}")
    print(f"loss: in units of what is lost where the {M} most important features are kept, and no others")
    kept = [stored(toy_of_p.W) for toy_of_p in found.values()]
    losses = [toy_of_p.loss / dropped(p) for p, toy_of_p in found.items()]
    shared = [interference(toy_of_p.W) for toy_of_p in found.values()]
    assert kept[0] == M and abs(losses[0] - 1) < 0.01 and shared[0] < 0.05, "dense: principal components"
    assert kept == sorted(kept) and kept[-1] >= 3 * M and losses[-1] < 0.5
    assert shared == sorted(shared) and shared[-1] > 1, "what it pays"
    assert all(stored(t.W) == M and abs(t.loss / dropped(p) - 1) < 0.03 for p, t in plain.items())
    show(lambda figure: draw(figure, found), size=(11, 2.8))
    rare = f"{DENSITIES[-1]:.0%}"
    print(
        f"\nWhere each feature is there in {rare} of the cases, {M} dimensions store {kept[-1]} of them, at"
    )
    print(f"{losses[-1]:.2f} of the loss; without relu they never store more than {M}.")


if __name__ == "__main__":
    main()
