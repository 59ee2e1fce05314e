"""What does it cost to remove many of a trained model's weights, and does training bring it back?

The shipped model loses a share of the weights of its matrices: those that are smallest, or whose removal is
estimated to cost least, by the first or the second term of the loss (numgpt/pruning/criteria.py derives
both). The table has what held-out text costs then. Half of the weights chosen by the second term, Fisher's,
cost less than four fifths of what the smallest half costs. Seven in ten are too many for all criteria; but a
few steps of training, masks in place, bring back more than a third of that loss, and what was 0 is 0 still.

Half of the neurons is another bargain: more loss than half of the weights, some of which training brings
back, and a smaller model, which is faster, while zeros in a dense product save no time.

    python prune_and_recover.py    half a minute
"""

import statistics
import time

import numpy as np

import numgpt

SHARES = 0.1, 0.3, 0.5, 0.7
STEPS = 25


def rows(ids, n, T):
    """n rows of T + 1 tokens, evenly spread over a text."""
    starts = np.linspace(0, len(ids) - T - 1, n).astype(int)
    return np.stack([ids[start : start + T + 1] for start in starts]).astype(int)


def loss_of(model, text):
    """The mean loss of the tokens of rows but the first."""
    parts = [text[i : i + 16] for i in range(0, len(text), 16)]
    return float(np.mean([model.loss(part[:, :-1], part[:, 1:]) for part in parts]))


def trained(model, corpus, steps):
    """The same model after some more steps."""
    settings = numgpt.Training(
        steps=steps, lr=1e-3, warmup=5, batch_size=8, eval_iters=1, eval_interval=10**6
    )
    numgpt.Trainer(model, corpus, settings).run()
    return model


def paired(one, other, ids, pairs=15):
    """Median seconds of a forward of two models, taken in turn."""
    seconds = [], []
    for _ in range(pairs):
        for model, found in zip((one, other), seconds):
            begin = time.perf_counter()
            model(ids)
            found.append(time.perf_counter() - begin)
    return [statistics.median(found[2:]) for found in seconds]


def main():
    """Print the table, train two pruned models on, and assert what the text above says."""
    model = numgpt.GPT.load("numgpt:austen")
    corpus = numgpt.prepare("numgpt:austen", tokenizer=model.tokenizer)
    T = model.config.block_size
    held_out, calibration = rows(corpus.held_out, 32, T), rows(corpus.train, 32, T)
    base = loss_of(model, held_out)
    print(f"loss of held-out text: {base:.4f} nats a token\n")
    print("share masked " + "".join(f"{share:8.0%}" for share in SHARES) + "     2:4")
    risen = {}
    for criterion in ("magnitude", "gradient", "fisher"):
        data = None if criterion == "magnitude" else calibration
        losses = [loss_of(model.pruned(share, criterion, data), held_out) for share in SHARES]
        losses.append(loss_of(model.pruned(None, criterion, data, pattern="2:4"), held_out))
        risen[criterion] = [loss - base for loss in losses]
        print(f"{criterion:13}" + "".join(f"{rise:+8.4f}" for rise in risen[criterion]))
    assert risen["fisher"][2] < 0.8 * risen["magnitude"][2]  # 0.5
    assert all(rises[0] < 0.02 < 0.5 < rises[3] for rises in risen.values())  # 0.1 and 0.7

    sparse = model.pruned(0.7, "fisher", calibration)
    fewer = model.pruned(0.5, "fisher", calibration, structured="neurons")
    print(f"\n{'without':16}   pruned   after {STEPS} steps   parameters   a forward")
    seconds = paired(model, fewer, held_out[:8, :-1])
    names = {
        "70% of weights": (sparse, "as before"),
        "half the neurons": (fewer, f"{seconds[0] / seconds[1]:.2f} × as fast"),
    }
    for name, (pruned, speed) in names.items():
        before = loss_of(pruned, held_out) - base
        after = loss_of(trained(pruned, corpus, STEPS), held_out) - base
        print(f"{name:16} {before:+8.4f}   {after:+14.4f}   {pruned.n_params:10,}   {speed}")
        assert after < (0.65 if pruned is sparse else 1) * before
    for name, mask in sparse.params.integers.items():
        weight = sparse.params[name.removesuffix("_mask")]
        assert (mask == 0).mean() > 0.69 and not weight[mask == 0].any() and weight[mask != 0].all()
    assert seconds[1] < seconds[0]
    print("\nTraining brings much of the loss back, and zeros stay zero; fewer neurons alone save time.")


if __name__ == "__main__":
    main()
