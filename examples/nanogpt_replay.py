"""The CPU run in nanoGPT's README, seed for seed and without PyTorch: each published loss beside ours.

python nanogpt_replay.py --data tinyshakespeare.txt

takes some two minutes; without --data it runs a few steps on another text. With --perturb SEED every sum
runs in another order, which shows how far rounding alone moves the losses.
"""

import argparse
import hashlib
import math
from pathlib import Path

import numpy as np

import numgpt
from numgpt.architecture.config import Training
from numgpt.data import corpora
from numgpt.interchange import torch_random

TINYSHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
# Step → (training loss, held-out loss).
PUBLISHED_EVALUATIONS = {
    0: (4.1676, 4.1649), 250: (2.4293, 2.4447), 500: (2.2732, 2.3141), 750: (2.1338, 2.1905),
    1000: (1.9714, 2.0528), 1250: (1.8756, 2.0089), 1500: (1.8557, 1.9225), 1750: (1.7790, 1.8921),
    2000: (1.7648, 1.8857),
}  # fmt: skip
# Step → the loss of its batch.
PUBLISHED_LOSSES = {
    0: 4.1828, 100: 2.6635, 200: 2.5039, 300: 2.3350, 400: 2.3405, 500: 2.3827, 600: 2.1762, 700: 2.0947,
    800: 2.2092, 900: 2.0011, 1000: 2.0455, 1100: 1.7907, 1200: 1.9533, 1300: 1.9599, 1400: 1.8251,
    1500: 1.8624, 1600: 1.7808, 1700: 1.7163, 1800: 1.8415, 1900: 1.6849, 2000: 1.6958,
}  # fmt: skip
# The farthest that any loss moved with --data tinyshakespeare.txt --perturb SEED, for SEED 1 to 8.
MEASURED = 9e-7
LAST_LOSS = 0.005  # how far the last held-out loss may lie from the published one, whatever its band


def band(step):
    """How far a loss may lie from the published one.

    Half of its last digit, and ten times what other orders of the sums changed: ten, because the sums on
    nanoGPT's computer ran in an order of their own, and a few seeds try only a few of all orders. Before the
    first update nothing has been magnified, so every digit must be the published one.
    """
    return 0.5e-4 + (10 * MEASURED if step else 0)


def initialise(model, generator):
    """Draw the parameters as nanoGPT does. PyTorch's Linear keeps its matrix transposed, (out, in)."""
    c, p = model.config, model.params
    matrices = [
        f"h.{i}.{name}.weight"
        for i in range(c.n_layer)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    # A module draws values when it is made. All are drawn again below, so here only their number counts.
    generator.skip(sum(p[name].size for name in ("wte.weight", "wpe.weight", *matrices, "wte.weight")))
    p["wte.weight"] = generator.normal(p["wte.weight"].shape, std=0.02)
    p["wpe.weight"] = generator.normal(p["wpe.weight"].shape, std=0.02)
    for name in matrices:
        p[name] = generator.normal(p[name].shape[::-1], std=0.02).T
    # The head is the same tensor as the embedding, and is drawn last: this draw stays.
    p["wte.weight"] = generator.normal(p["wte.weight"].shape, std=0.02)
    for name in matrices:
        if name.endswith("c_proj.weight"):
            p[name] = generator.normal(p[name].shape[::-1], std=0.02 / math.sqrt(2 * c.n_layer)).T


def renumber(model, rng):
    """Number tokens, channels, heads, their channels and hidden units anew; returns the new order of tokens.

    What the model computes stays the same, and so does AdamW's step, which acts on each entry by itself. But
    every sum over channels, hidden units or tokens runs in another order: only rounding differs.
    """
    c, p = model.config, model.params
    D = c.n_embd // c.n_head
    tokens, channels = rng.permutation(c.vocab_size), rng.permutation(c.n_embd)
    p["wte.weight"] = p["wte.weight"][np.argsort(tokens)][:, channels]
    p["wpe.weight"] = p["wpe.weight"][:, channels]
    p["ln_f.weight"] = p["ln_f.weight"][channels]
    for i in range(c.n_layer):
        heads, hidden = rng.permutation(c.n_head), rng.permutation(c.ffn_width)
        within = np.arange(c.n_embd).reshape(c.n_head, D)[heads]  # (H, D): the channels of each head
        queries = np.concatenate([rng.permutation(row) for row in within])
        values = np.concatenate([rng.permutation(row) for row in within])
        # Keys take the order of the queries, whose channels they are multiplied with.
        columns = np.concatenate([queries, c.n_embd + queries, 2 * c.n_embd + values])
        h = f"h.{i}."
        p[h + "ln_1.weight"] = p[h + "ln_1.weight"][channels]
        p[h + "attn.c_attn.weight"] = p[h + "attn.c_attn.weight"][channels][:, columns]
        p[h + "attn.c_proj.weight"] = p[h + "attn.c_proj.weight"][values][:, channels]
        p[h + "ln_2.weight"] = p[h + "ln_2.weight"][channels]
        p[h + "mlp.c_fc.weight"] = p[h + "mlp.c_fc.weight"][channels][:, hidden]
        p[h + "mlp.c_proj.weight"] = p[h + "mlp.c_proj.weight"][hidden][:, channels]
    return tokens


def replay(text, steps, perturb=None):
    """Yield ("evaluation", i, (train, held out)) and ("loss", i, loss), in nanoGPT's order of draws.

    perturb: a seed, by which everything is numbered anew, which changes the order of all sums.
    """
    characters = sorted(set(text))
    ids = np.searchsorted(characters, list(text))
    split = int(0.9 * len(ids))
    data = {"train": ids[:split], "val": ids[split:]}
    t = Training(steps=2000)
    config = numgpt.Config(
        vocab_size=len(characters),
        block_size=64,
        n_layer=4,
        n_head=4,
        n_embd=128,
        bias=False,
        activation="gelu",
    )
    model, generator = numgpt.GPT(config), torch_random.Generator(1337)
    initialise(model, generator)
    rows = np.arange(12)
    if perturb is not None:
        rng = np.random.default_rng(perturb)
        rows = rng.permutation(rows)
        before, x, y = model.astype("float64"), ids[:64], ids[1:65]
        tokens = renumber(model, rng)
        after = model.astype("float64").loss(tokens[x], tokens[y])
        assert abs(after - before.loss(x, y)) < 1e-12, "another function, not another order"
        data = {part: tokens[part_ids] for part, part_ids in data.items()}
    optimizer = numgpt.AdamW(model, (t.beta1, t.beta2), t.eps, t.weight_decay, t.clip)

    def batch(part):
        starts = generator.randint(len(data[part]) - 64, 12)[rows, None] + np.arange(64)
        return data[part][starts], data[part][starts + 1]

    def mean_loss(part):
        return float(np.mean([model.loss(*batch(part)) for _ in range(20)]))

    x, y = batch("train")
    for i in range(steps + 1):
        if i % 250 == 0:
            yield "evaluation", i, (mean_loss("train"), mean_loss("val"))
        loss, grads = model.loss_and_grads(x, y)
        x, y = batch("train")
        optimizer.step(grads, numgpt.learning_rate(i, t))
        yield "loss", i, float(loss)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, help="tinyshakespeare, 1,115,394 bytes")
parser.add_argument("--steps", type=int, help="updates (default: 2000; without --data 20)")
parser.add_argument("--perturb", type=int, metavar="SEED", help="run all sums in another order")
args = parser.parse_args()
text = corpora.python()[1] if args.data is None else args.data.read_text("utf-8")
published = hashlib.sha256(text.encode()).hexdigest() == TINYSHAKESPEARE
steps = args.steps
if steps is None:
    steps = 2000 if published else 20

results = {}  # (kind, step) → value
rows = []  # (difference, band, whether all printed digits are equal) of each published loss
if published:
    print("step               ours   published    difference       band")
else:
    print("step              ours")
for kind, i, value in replay(text, steps, args.perturb):
    results[kind, i] = value
    if kind == "evaluation":
        losses = list(zip(("train", "held out"), value, PUBLISHED_EVALUATIONS.get(i, (None, None))))
    else:
        losses = [("batch", value, PUBLISHED_LOSSES.get(i))]
    for name, ours, theirs in losses:
        if published and theirs is not None:
            difference = ours - theirs
            rows.append((abs(difference), band(i), f"{ours:.4f}" == f"{theirs:.4f}"))
            print(
                f"{i:4} {name:9} {ours:12.7f} {theirs:9.4f} {difference:+15.7f} {band(i):10.7f}", flush=True
            )
        elif not published and (kind == "evaluation" or i % 5 == 0):
            print(f"{i:4} {name:9} {ours:11.4f}", flush=True)

if published:
    first = [f"{loss:.4f}" for loss in (*results["evaluation", 0], results["loss", 0])]
    assert first == ["4.1676", "4.1649", "4.1828"], first
    assert all(difference <= allowed for difference, allowed, _ in rows), "a loss lies out of its band"
    if steps >= 2000:
        assert abs(results["evaluation", 2000][1] - PUBLISHED_EVALUATIONS[2000][1]) < LAST_LOSS
    equal = sum(same for *_, same in rows)
    furthest = max(difference for difference, *_ in rows)
    print(
        f"{equal} of {len(rows)} published losses are ours to every printed digit, all lie in the"
        f" band, none is further away than {furthest:.7f}."
    )
else:
    assert results["loss", steps] < results["loss", 0]
    print("The same draws on another text, for which nothing is published: give --data for that.")
