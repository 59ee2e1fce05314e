"""Which recipe of training is worth it: Muon, a late cooldown, smoothed targets, documents apart?

A small GPT reads short paragraphs of Jane Austen's novels in a random order, each after an end-of-text token,
for 150 steps. The learning rate of each optimizer is chosen first, on a seed of its own. Then each recipe is
run with three seeds, which give all recipes the same beginnings and the same batches: so differences are
paired, and their standard errors small.

    python recipes_compared.py [--plot FILE]    a minute

What it does not show: that any of this holds for larger models, longer runs or other texts. Z-loss is there
for precision in long runs and smoothing for classes that are mistaken, and a run of seconds needs neither.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time

import numpy as np

import numgpt
from numgpt import GPT, Config, Trainer, Training
from numgpt.data import corpora

END = "<|endoftext|>"
SEEDS = (1, 2, 3)
CHOSEN_BY = 0  # the seed that learning rates are chosen with
T = 64
BASE = Training(steps=150, warmup=15, batch_size=12, eval_iters=12, eval_interval=150, documents=True)
RATES = {"adamw": (2e-3, 3e-3, 6e-3), "muon": (8e-3, 16e-3, 32e-3)}
RECIPES = {
    "AdamW": {},
    "AdamW, wsd": {"schedule": "wsd"},
    "AdamW, targets smoothed by 0.1": {"label_smoothing": 0.1},
    "AdamW, z-loss of 1e-3": {"z_loss": 1e-3},
    "AdamW, documents read on into the next": {"documents": False},
    "Muon": {"optimizer": "muon"},
    "Muon, wsd": {"optimizer": "muon", "schedule": "wsd"},
}


def paragraphs():
    """The novels' short paragraphs as documents, in a random order."""
    texts = [paragraph for paragraph in corpora.austen().split("\n\n") if 40 < len(paragraph) < 160]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def corpus_of(texts):
    """A corpus whose documents each begin with the special token."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "text.txt")
        path.write_text("".join(END + text for text in texts))
        learned = numgpt.tokenizers.build("bpe:512", "".join(texts[:2000]))
        tokenizer = numgpt.tokenizers.with_specials(learned, [END])
        return numgpt.prepare(path, tokenizer=tokenizer, split="tail", dedup=False, special="allow")


def trained(corpus, seed, **settings):
    """A model after a run, and the milliseconds of a step."""
    config = Config(vocab_size=corpus.tokenizer.vocab_size, block_size=T, n_layer=2, n_head=4, n_embd=64)
    training = dataclasses.replace(BASE, seed=seed, **settings)
    trainer = Trainer(GPT(config, seed=seed, tokenizer=corpus.tokenizer), corpus, training)
    trainer.step()
    began = time.perf_counter()
    while trainer.updates < training.steps:
        trainer.step()
    return trainer.model, 1000 * (time.perf_counter() - began) / (training.steps - 1)


def measured(model, corpus):
    """(held-out loss of documents by themselves, root mean square of ln Σ exp(logits))."""
    judge = Trainer(model, corpus, BASE)
    loss = judge.evaluate()["held_out_loss"]
    batch = next(iter(judge.objective.held_out()))
    logits = model(batch.inputs[0], visibility=batch.visibility).astype("float64")
    return loss, np.sqrt((np.log(np.exp(logits).sum(-1)) ** 2).mean())


def chosen_rates(corpus):
    """The best of each optimizer's learning rates; none of them lies at the end that would go on."""
    best = {}
    for optimizer, rates in RATES.items():
        losses = [
            measured(trained(corpus, CHOSEN_BY, optimizer=optimizer, lr=lr)[0], corpus)[0] for lr in rates
        ]
        n = int(np.argmin(losses))
        assert 0 < n < len(rates) - 1, "the best rate lies at an end: try further ones"
        best[optimizer] = rates[n]
        shown = ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in zip(rates, losses))
        print(f"learning rates of {optimizer:5}  {shown}")
    return best


def compared(corpus, rates):
    """Name → (losses by seed, size of logits, ms a step)."""
    results = {}
    for name, settings in RECIPES.items():
        lr = rates[settings.get("optimizer", "adamw")]
        runs = [trained(corpus, seed, lr=lr, **settings) for seed in SEEDS]
        losses, sizes = zip(*(measured(model, corpus) for model, _ in runs))
        results[name] = np.array(losses), np.mean(sizes), np.median([ms for _, ms in runs])
    return results


def paired(losses, base):
    """Mean and standard error of what a recipe loses against another, seed by seed."""
    differences = losses - base
    return differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", help="draw the differences")
    args = parser.parse_args()
    texts = paragraphs()
    corpus = corpus_of(texts)
    lengths = np.array([min(T, len(corpus.tokenizer.encode(text)) + 1) for text in texts[:500]])
    print(f"rows of one padded document would hold {lengths.mean() / T:.0%} text, windows hold 100%")
    results = compared(corpus, chosen_rates(corpus))
    base = results["AdamW"][0]
    print(f"\n{'recipe':40} held-out loss   beside AdamW     rms of ln Σ exp   ms a step")
    table = {}
    for name, (losses, size, ms) in results.items():
        mean, error = table[name] = paired(losses, base)
        beside = "" if name == "AdamW" else f"{mean:+.3f} ± {error:.3f}"
        print(f"{name:40} {losses.mean():10.3f}   {beside:>15}   {size:13.2f}   {ms:11.1f}")
    if args.plot:
        draw(table, args.plot)
    mean, error = table["Muon"]
    assert mean < -3 * error < 0
    assert table["Muon, wsd"][0] < -3 * table["Muon, wsd"][1]
    assert results["AdamW, z-loss of 1e-3"][1] < results["AdamW"][1]
    assert table["AdamW, targets smoothed by 0.1"][0] > 0
    print(f"\nMuon lowers the loss by {-mean:.2f} ± {error:.2f} nats at the same number of steps.")


def draw(table, path):
    """The differences with their standard errors."""
    import matplotlib.pyplot as plt

    names = [name for name in table if name != "AdamW"][::-1]
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    means, errors = zip(*(table[name] for name in names))
    axes.errorbar(means, range(len(names)), xerr=errors, fmt="o", capsize=3)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("held-out loss beside AdamW's, nats, ± standard error")
    figure.savefig(path)


if __name__ == "__main__":
    main()
