"""What does TransformerLens' folding of weights change in a model, and what not?

Its HookedTransformer loads a model as another one that says the same, unless told otherwise; since version 4
TransformerBridge does so in its compatibility mode. There are four steps:

    the norms' weights and biases go into what reads the norm        γ ⊙ W, b + β W; and W without ⟨W⟩, for
                                                                     what comes from a norm has mean 0
    what writes to the stream is centred                             W_E, W_pos, W_O, W_out without ⟨·⟩ over C
    the unembedding is centred                                       W_U, b_U without ⟨·⟩ over the vocabulary
    the biases of values go into the bias behind the heads           b_O + b_V W_O, for attention sums to 1

Log-probabilities, attention and what neurons do stay as they were. The stream loses its mean, logits theirs,
values their bias. So whoever compares activations of both compares different things, and a head that is set
to 0 is not the same head in both: with a mean in its place it is.

What it does not show: what folding does to models with RMSNorm, which has no mean to take away.

    python what_folding_changes.py --plot picture.svg    a few seconds
"""

import argparse
import dataclasses

import numpy as np
import picture

import numgpt
from numgpt.interpretability import ablation, surprise


def centred(array, axis):
    """An array without its mean over an axis."""
    return array - array.mean(axis, keepdims=True)


def folded(weight, bias, gain, shift):
    """A map (I, O) and its bias that give of x̂ what the old ones gave of x̂ γ + β."""
    return centred(gain[:, None] * weight, 0), bias + shift @ weight


def processed(model):
    """The model that TransformerLens makes of it: the same log-probabilities from other weights."""
    biases = "qkv out mlp norm head"
    config = dataclasses.replace(model.config, tied=False, bias=True, biases=biases)
    new = numgpt.GPT(config, dtype="float64")
    old, C = model.params, model.config.n_embd

    def get(name, n):
        return old[name] if name in old else np.zeros(n)

    def put(name, weight, bias):
        new.params[f"{name}.weight"][...] = weight
        new.params[f"{name}.bias"][...] = bias

    for name in ("wte", "wpe"):
        new.params[f"{name}.weight"][...] = centred(old[f"{name}.weight"], -1)
    for layer in range(config.n_layer):
        at = f"h.{layer}"
        attn, out, fc, proj = (f"{at}.{n}" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))
        maps = {
            n: (old[f"{n}.weight"], get(f"{n}.bias", old[f"{n}.weight"].shape[1]))
            for n in (attn, out, fc, proj)
        }
        norms = [(old[f"{at}.{n}.weight"], get(f"{at}.{n}.bias", C)) for n in ("ln_1", "ln_2")]
        weight, bias = folded(*maps[attn], *norms[0])
        of_values = bias[2 * C :].copy()
        bias[2 * C :] = 0
        put(attn, weight, bias)
        put(out, centred(maps[out][0], -1), centred(maps[out][1] + of_values @ maps[out][0], -1))
        put(fc, *folded(*maps[fc], *norms[1]))
        put(proj, *(centred(array, -1) for array in maps[proj]))
        for norm in ("ln_1", "ln_2"):
            put(f"{at}.{norm}", 1, 0)
    put("ln_f", 1, 0)
    table = old["wte.weight" if model.config.tied else "lm_head.weight"]
    weight, bias = folded(table.T, np.zeros(len(table)), old["ln_f.weight"], get("ln_f.bias", C))
    put("lm_head", centred(weight, -1).T, centred(bias, -1))
    return new


def log_softmax(z):
    """Log-probabilities from logits."""
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


STAYS, CHANGES = "stays", "changes"
# What is compared: whether it stays, its name of a layer, and whether its mean is taken away before.
COMPARED = {
    "the stream": (CHANGES, "", False),
    "the stream, centred": (STAYS, "", True),
    "gradient of the stream": (STAYS, "mid", False),
    "what a norm gives": (CHANGES, "ln_2", False),
    "queries": (STAYS, "attn.heads.q", False),
    "keys": (STAYS, "attn.heads.k", False),
    "values": (CHANGES, "attn.heads.v", False),
    "attention": (STAYS, "attn.heads.probs", False),
    "the heads' results": (CHANGES, "attn.heads", False),
    "neurons": (STAYS, "mlp.act", False),
}
OF_LOGITS = {"logits": CHANGES, "logits, centred": STAYS, "log-probabilities": STAYS}


def differences(model, other, tokens, targets):
    """what → the largest difference of two models, in units of the largest entry, over all layers."""
    a, b = (m.record(tokens, targets) for m in (model, other))
    found = {}
    for what, (_, name, is_centred) in COMPARED.items():
        pairs = []
        for layer in range(model.config.n_layer):
            full = f"h.{layer}.{name}".rstrip(".")
            pair = [r.grad[full] if what.startswith("gradient") else r.value[full] for r in (a, b)]
            pairs.append([centred(x, -1) for x in pair] if is_centred else pair)
        found[what] = max(abs(x - y).max() / abs(x).max() for x, y in pairs)
    x, y = a.value["lm_head"], b.value["head_bias"]
    of = {"logits": (x, y), "logits, centred": (centred(x, -1), centred(y, -1))}
    of["log-probabilities"] = (log_softmax(x), log_softmax(y))
    return found | {what: abs(x - y).max() / abs(x).max() for what, (x, y) in of.items()}


def without_heads(model, other, tokens, targets):
    """way → what the surprise gains where a head is left out, in both models, (2, L, H)."""
    metric = surprise(model, targets)
    return {
        how: np.stack([ablation(m, tokens, metric, at="heads", how=how).effect for m in (model, other)])
        for how in ("zero", "mean")
    }


def models():
    """A GPT-2 in small, every weight and bias of which counts, and the shipped model, which has no biases."""
    config = numgpt.Config(vocab_size=50, block_size=16, n_layer=3, n_head=4, n_embd=32)
    model = numgpt.GPT(config, seed=0, dtype="float64")
    model.params.flat += 0.2 * np.random.default_rng(1).standard_normal(model.n_params)
    return {"GPT-2, random": model, "numgpt:austen": numgpt.GPT.load("numgpt:austen", dtype="float64")}


def draw(figure, effects):
    """The effects of heads that are set to 0, and to their mean, in one model against the other."""
    for ax, (how, (ours, theirs)) in zip(figure.subplots(1, 2), effects.items()):
        ax.axline((0, 0), slope=1, color="#bbbbbb", linewidth=0.8)
        ax.plot(ours.ravel(), theirs.ravel(), "o", color="#1f4e8c", markersize=4)
        ax.set(title=f"each head: {how}", xlabel="rise of the surprise, as it is")
    figure.axes[0].set(ylabel="folded")


def main(argv=None):
    """Fold two models, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    picture.add_flag(parser)
    args = parser.parse_args(argv)
    show = picture.to(args.plot, title=__doc__.partition("\n")[0])
    numgpt.set_threads(1)  # the arrays are small
    rng, found, effects = np.random.default_rng(0), {}, {}
    for name, model in models().items():
        text = rng.integers(0, model.config.vocab_size, (4, 16))
        pair, batch = (model, processed(model)), (text[:, :-1], text[:, 1:])
        found[name] = differences(*pair, *batch)
        effects[name] = without_heads(*pair, *batch)
    print(f"{'largest difference, relative':34}{''.join(f'{name:>16}' for name in found)}")
    verdicts = {what: row[0] for what, row in COMPARED.items()} | OF_LOGITS
    for what, verdict in verdicts.items():
        values = [by_what[what] for by_what in found.values()]
        print(f"{what:26}{verdict:8}{''.join(f'{x:16.1e}' for x in values)}")
        # Without biases, values and what heads make of them stay: there is nothing to fold.
        counted = values[:1] if what in ("values", "the heads' results") else values
        assert all(x < 1e-12 if verdict == STAYS else x > 1e-3 for x in counted)

    ours, gap = effects["GPT-2, random"], {}
    print(f"\n{'a head of the random GPT-2 is':34}{'largest effect':>16}{'difference':>16}")
    for how, pair in ours.items():
        gap[how] = abs(pair[0] - pair[1]).max()
        what = {"zero": "set to 0", "mean": "set to its mean"}[how]
        print(f"{what:34}{abs(pair[0]).max():16.4f}{gap[how]:16.1e}")
    assert gap["mean"] < 1e-12 < 1e-2 < gap["zero"]
    show(lambda figure: draw(figure, ours), size=(7.6, 3.6))
    most = max(by_what["log-probabilities"] for by_what in found.values())
    print(
        f"\nLog-probabilities agree to {most:.0e}. The stream, logits and values do not, and what a head that"
    )
    print(
        "is set to 0 is worth depends on the folding: compare models without it, or set heads to their mean."
    )


if __name__ == "__main__":
    main()
