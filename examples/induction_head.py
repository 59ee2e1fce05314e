"""When is an induction head born, and why not in a model of one layer?

Attention alone, without feed-forwards, learns to continue random segments that repeat. An induction head
looks for what followed the token the last time. It needs two steps: a head of the first layer writes into
each place which token stood before it, and a head of the second looks for the place that says so. One layer
has no such places to read, and does not learn it. When the first head is taken away, the second is blind,
and above all its keys miss it.

What it does not show: that large models learn to continue text in this way, nor at which time.

    python induction_head.py --plot picture.svg    half a minute
"""

import argparse
from typing import NamedTuple

import numpy as np
import picture

import numgpt
from numgpt.interpretability import attention_maps, induction_score, previous_token_score

V, T, PERIOD = 32, 32, 16  # the period of the texts on which heads are measured


def nothing_forward(x):
    """What stands in the place of a feed-forward: it adds nothing to the stream."""
    return 0 * x, ()


def nothing_backward(dy, saved):
    """Nothing comes back through it."""
    return (0 * dy,)


# A block without a feed-forward is no field of Config: another op is served under the feed-forward's name.
ATTENTION_ONLY = {"h.*.mlp": numgpt.ops.Op("...C -> ...C", nothing_forward, nothing_backward)}


def batch(rng, size, period=None):
    """Tokens and targets (B, T): random segments that repeat. What nobody could know does not count."""
    periods = rng.integers(6, 17, size) if period is None else np.full(size, period)
    segments = rng.integers(0, V, (size, 16))
    places = np.arange(T + 1) % periods[:, None]
    text = np.take_along_axis(segments, places, axis=1)
    targets = np.where(np.arange(T) >= periods[:, None], text[:, 1:], -1)
    return text[:, :-1], targets


def train(n_layer, steps, every, seed):
    """(the model, what is measured every so many steps: a Measured each)"""
    config = numgpt.Config(V, block_size=T, n_layer=n_layer, n_head=4, n_embd=64, tied=False)
    model = numgpt.GPT(config, seed=seed, served=ATTENTION_ONLY)
    rng = np.random.default_rng(seed)
    for name in ("wte.weight", "wpe.weight"):  # with the usual 0.02 it takes far longer
        model.params[name][...] = 0.5 * rng.standard_normal(model.params[name].shape)
    optimizer = numgpt.AdamW(model, weight_decay=0.0)
    history = []
    for step in range(steps + 1):
        if step % every == 0:
            history.append(measure(model, step))
        _, grads = model.loss_and_grads(*batch(rng, 64))
        optimizer.step(grads, lr=3e-3)
    return model, history


class Measured(NamedTuple):
    """A model after a number of steps: its loss, its accuracy, and scores of heads (L, H)."""

    step: int
    loss: float
    accuracy: float
    previous: np.ndarray
    induction: np.ndarray


def measure(model, step=0):
    """What a model does on texts of one period that it has not seen."""
    tokens, targets = batch(np.random.default_rng(10**6), 64, PERIOD)
    maps = attention_maps(model, tokens).maps
    counts = targets >= 0
    return Measured(
        step,
        float(model.loss(tokens, targets)),
        float((model(tokens).argmax(-1) == targets)[counts].mean()),
        np.array([previous_token_score(P).mean(0) for P in maps]),
        np.array([induction_score(P, PERIOD).mean(0) for P in maps]),
    )


def without(model, heads):
    """An edit of the first layer's result that leaves some heads out."""
    D = model.config.head_size
    keeps = np.repeat([float(h not in heads) for h in range(model.config.n_head)], D).astype("float32")
    return {"h.0.attn.heads": lambda y: y * keeps}


def scores_without(model, heads, read_by=("q", "k", "v")):
    """(loss, induction scores of layer 1) where some of its parts read a stream without some heads' results.

    A run without the heads says what queries, keys and values would be; those named are put into another.
    """
    tokens, targets = batch(np.random.default_rng(10**6), 64, PERIOD)
    names = [f"h.1.attn.heads.{part}" for part in read_by]
    cut = model.record(tokens, keep=names, edit=without(model, heads)).value
    edit = {name: (lambda _, value=cut[name]: value, np.zeros_like) for name in names}
    record = model.record(tokens, targets, keep=["loss", "h.1.attn.heads.probs"], edit=edit)
    P = record.value["h.1.attn.heads.probs"]
    return float(record.value["loss"]), induction_score(P, PERIOD).mean(0)


def draw(figure, two, one):
    """Accuracy and the best head's scores over the steps."""
    for ax, history, title in zip(
        figure.subplots(1, 2, sharey=True), (two, one), ("two layers", "one layer")
    ):
        steps = [m.step for m in history]
        ax.plot(steps, [m.accuracy for m in history], color="#202020", label="accuracy of copying")
        ax.plot(
            steps, [m.previous[0].max() for m in history], color="#1f77b4", label="previous token, layer 0"
        )
        ax.plot(
            steps, [m.induction[-1].max() for m in history], color="#d62728", label="induction, last layer"
        )
        ax.set(title=title, xlabel="step", ylim=(0, 1.02), xlim=(0, steps[-1]))
    figure.axes[0].set(ylabel="accuracy, share of attention")
    figure.axes[0].legend(loc="lower right", fontsize=8)


def tell_history(two, one):
    """The table of both runs; scores are those of the layer's best head."""
    print(f"{'':9}two layers{'':47}one layer")
    columns = f"{'loss':>8}{'accuracy':>10}"
    print(f"   step{columns}   previous token (0)   induction (1){columns}   induction (0)")
    for a, b in zip(two, one):
        print(
            f"{a.step:7}{a.loss:8.3f}{a.accuracy:10.3f}{a.previous[0].max():21.2f}"
            f"{a.induction[1].max():16.2f}{b.loss:8.3f}{b.accuracy:10.3f}{b.induction[0].max():16.2f}"
        )


def tell_knockouts(model, heads):
    """The table of what goes without heads of layer 0, and the mean induction score by who misses them."""
    print("\nwithout of layer 0            read so by        loss   induction score of each head of layer 1")
    found = {}
    cases = [((), "qkv"), *(((h,), "qkv") for h in range(4)), *((heads, parts) for parts in ("qkv", *"qkv"))]
    for gone, parts in cases:
        loss, scores = scores_without(model, gone, parts)
        found[gone, parts] = scores.mean()
        label = " and ".join(f"head {h}" for h in gone) or "nothing"
        who = "all" if parts == "qkv" else {"q": "queries", "k": "keys", "v": "values"}[parts]
        print(f"{label:30}{who:14}{loss:8.3f}   {'  '.join(f'{s:.2f}' for s in scores)}")
    return found


def main(argv=None):
    """Train two models, tell when what is born, and take it apart."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=700, help="of training (default: 700)")
    parser.add_argument("--seed", type=int, default=1, help="of weights and texts (default: 1)")
    picture.add_flag(parser)
    args = parser.parse_args(argv)
    show = picture.to(args.plot, title=__doc__.partition("\n")[0])
    (model, two), (_, one) = (train(n_layer, args.steps, 50, args.seed) for n_layer in (2, 1))
    tell_history(two[::2], one[::2])
    assert two[-1].accuracy > 0.9 and two[-1].induction[1].max() > 0.7 and two[-1].previous[0].max() > 0.7
    assert one[-1].accuracy < 0.5 and max(m.induction.max() for m in one) < 0.2
    # Both come together: while no head tells who stood before, there is nothing for the other to look for.
    born = next(m.step for m in two if m.induction[1].max() > 0.4)

    heads = tuple(np.flatnonzero(two[-1].previous[0] > 0.2).tolist())
    found = tell_knockouts(model, heads)
    whole = found[(), "qkv"]
    assert found[heads, "qkv"] < 0.25 * whole and found[heads, "k"] < 0.5 * whole
    assert min(found[heads, "q"], found[heads, "v"]) > 0.75 * whole
    others = [found[(h,), "qkv"] for h in range(4) if h not in heads]
    assert min(others) > 0.75 * whole

    show(lambda figure: draw(figure, two, one), size=(9.2, 3.8))
    print(
        f"\nInduction heads are there after {born} steps with two layers, with one never. Without the heads"
    )
    print("that look one token back they are blind, and above all their keys miss what those wrote.")


if __name__ == "__main__":
    main()
