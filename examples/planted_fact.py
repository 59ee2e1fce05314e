"""Where does a model keep a fact, and what else moves when it is overwritten there?

A small GPT learns from generated sentences where each of 36 people lives and what their trade is. First and
last names are shared, so that neither alone says anything. Causal tracing (Meng et al. 2022) asks which state
brings a fact back that noise on the name took away. Then ROME writes a new home into one matrix, and all
other facts are asked again.

ROME's closed form. A feed-forward's last map W (F, C) makes of each key k (F), the activations behind the
nonlinearity, a value k W. A key k* is to give v* instead, and the outputs of all other keys are to move
least:

    minimise ½ Σ_i ‖k_i Δ‖² = ½ tr Δᵀ S Δ, S = Σ_i k_i k_iᵀ        such that k* Δ = v* − k* W
    S Δ = k* λᵀ                     because the derivative of the Lagrangian with respect to Δ is 0
    Δ = S⁻¹ k* λᵀ                   of rank one
    λ = (v* − k* W) / k*ᵀ S⁻¹ k*    because of the constraint

With S = 1 the update is the smallest in norm, and does not ask which other keys there are.

What it does not show: that a model has to keep facts so. With --seed 2 the last word of the sentence reads
first and last name each by itself, and an assertion says that this is not what was expected. Nor does it show
that large models keep them so (Hase et al. 2023: where tracing finds a fact says little of where it is best
edited), nor what several edits do to each other.

    python planted_fact.py --plot picture.svg    half a minute
"""

import argparse
import copy
from typing import NamedTuple

import numpy as np
import picture

import numgpt
from numgpt.interpretability import causal_tracing

FIRST = ("Anne", "Emma", "Fanny", "Jane", "Harriet", "Maria")
LAST = ("Bennet", "Dashwood", "Elliot", "Price", "Smith", "Woodhouse")
PEOPLE = [(first, last) for first in FIRST for last in LAST]
ANSWERS = {
    "home": ("Bath", "Brighton", "London", "Lyme", "Oxford", "York"),
    "trade": ("baker", "miller", "nurse", "painter", "tailor", "teacher"),
}
# The first form is the one that is edited; the others say the same in other words.
FORMS = {
    "home": ("{} lives in", "the home of {} is", "you will find {} in"),
    "trade": ("{} works as", "the trade of {} is"),
}
BEFORE = ("", "now", "they say", "we know that")
TRACED = BEFORE.index("they say")
KINDS = ("resid_post", "mlp", "attn")
USED = " ".join((*FIRST, *LAST, *BEFORE, *sum((*FORMS.values(), *ANSWERS.values()), ()), "."))
WORDS = sorted({*USED.replace("{}", "").split()})
NUMBER = {word: n for n, word in enumerate(WORDS)}
LONGEST = 10


class Corpus(NamedTuple):
    """All sentences, one a row: tokens and targets (N, T), where what lies behind its end does not count.

    (N) each: which kind of fact, which form of it, with which words before, about whom; the places of the
    last word of the name and of the last word before the answer; the answer.
    """

    tokens: np.ndarray
    targets: np.ndarray
    kind: np.ndarray
    form: np.ndarray
    before: np.ndarray
    who: np.ndarray
    subject: np.ndarray
    last: np.ndarray
    answer: np.ndarray

    def rows(self, kind, form, who=None):
        """The numbers of rows of a form of a fact, about one person or all."""
        is_meant = (self.kind == kind) & (self.form == form)
        return np.flatnonzero(is_meant if who is None else is_meant & (self.who == who))


def corpus(seed):
    """Sentences about facts that are drawn from a seed."""
    rng = np.random.default_rng(seed)
    texts, columns = [], []
    for kind, forms in FORMS.items():
        truth = rng.choice(ANSWERS[kind], len(PEOPLE))
        for form, pattern in enumerate(forms):
            for b, before in enumerate(BEFORE):
                for who, person in enumerate(PEOPLE):
                    words = f"{before} {pattern.format(' '.join(person))} {truth[who]} .".split()
                    texts.append([NUMBER[word] for word in words] + [-1] * (LONGEST + 1 - len(words)))
                    subject, last = words.index(person[1]), len(words) - 3
                    columns.append((kind, form, b, who, subject, last, NUMBER[truth[who]]))
    text = np.array(texts)
    return Corpus(np.maximum(text[:, :-1], 0), text[:, 1:], *map(np.array, zip(*columns)))


def taught(data, steps, seed):
    """A model that has read the sentences many times."""
    config = numgpt.Config(len(WORDS), block_size=LONGEST, n_layer=3, n_head=4, n_embd=64)
    model = numgpt.GPT(config, seed=seed)
    optimizer = numgpt.AdamW(model)
    rng = np.random.default_rng(seed)
    training = numgpt.Training(steps=steps, lr=3e-3, warmup=50)
    for step in range(steps):
        rows = rng.integers(0, len(data.tokens), 96)
        _, grads = model.loss_and_grads(data.tokens[rows], data.targets[rows])
        optimizer.step(grads, lr=numgpt.learning_rate(step, training))
    return model


def answers(model, data):
    """Log-probabilities (N, V) behind the last word before each answer; no position sees what follows it."""
    return log_softmax(model(data.tokens)[np.arange(len(data.last)), data.last].astype(float))


def log_softmax(z):
    """Log-probabilities from logits."""
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def traced(model, data):
    """What the noise takes away, and kind of state → what restoring it brings back, (layer, word)."""
    rows = [row for row in data.rows("home", 0) if data.before[row] == TRACED]
    found = []
    for row in rows:
        s, last, answer = (int(column[row]) for column in (data.subject, data.last, data.answer))
        ids, name = data.tokens[row, : last + 1], (s - 1, s + 1)
        found.append(causal_tracing(model, ids, name, answer, window=1, draws=8, at=KINDS, seed=int(row)))
    return np.mean([f.total_effect for f in found]), {
        kind: np.mean([f.effect[kind] for f in found], 0) for kind in KINDS
    }


# The edit.


def keys_and_values(model, data, layer, people, new):
    """(k*, v*) of each person: the mean key at the last word of the name, and a value there that says new.

    The value is moved down the slope of the surprise at the new home, until all sentences of the first form
    give it 0.95.
    """
    y, act = f"h.{layer}.mlp.c_proj", f"h.{layer}.mlp.act"
    rows = np.concatenate([data.rows("home", 0, n) for n in people])
    tokens, n, places = data.tokens[rows], len(BEFORE), (np.arange(len(rows)), data.subject[rows])
    targets = np.full_like(tokens, -1)
    targets[np.arange(len(rows)), data.last[rows]] = np.repeat(new, n)
    plain = model.record(tokens, keep=[y, act]).value
    keys, values = (plain[name][places].reshape(len(people), n, -1).mean(1) for name in (act, y))
    size = np.linalg.norm(values, axis=-1, keepdims=True)
    for step in np.linspace(0.1, 0.02, 100):
        record = model.record(tokens, targets, edit={y: put(places, np.repeat(values, n, 0))})
        logits = record.value["lm_head"][np.arange(len(rows)), data.last[rows]]
        p = np.exp(log_softmax(logits))[np.arange(len(rows)), np.repeat(new, n)]
        todo = (p.reshape(-1, n).min(-1) < 0.95)[:, None]
        if not todo.any():
            break
        slope = record.grad[y][places].reshape(len(people), n, -1).sum(1)
        values = values - todo * step * size * slope / np.linalg.norm(slope, axis=-1, keepdims=True)
    return keys.astype(float), values.astype(float)


def put(places, values):
    """An edit that sets what stands at some places, and how gradients pass it: there not at all."""

    def forward(y):
        y[places] = values
        return y

    def backward(dy):
        dy = dy.copy()
        dy[places] = 0
        return dy

    return forward, backward


def second_moment(model, data, layer):
    """S (F, F): the mean of k kᵀ over all words of all sentences, and a little of 1, for it is singular."""
    act = f"h.{layer}.mlp.act"
    keys = model.record(data.tokens, keep=[act]).value[act][data.targets >= 0].astype(float)
    S = keys.T @ keys / len(keys)
    return S + 1e-3 * np.trace(S) / len(S) * np.eye(len(S))


def overwritten(model, layer, key, value, S):
    """A copy of the model in which the key gives the value: the closed form above."""
    edited = copy.deepcopy(model)
    W = edited.params[f"h.{layer}.mlp.c_proj.weight"]
    wanted = value - (key @ W + edited.params[f"h.{layer}.mlp.c_proj.bias"])
    u = np.linalg.solve(S, key)
    delta = np.outer(u / (u @ key), wanted)
    assert abs(key @ delta - wanted).max() < 1e-12 * abs(wanted).max() * len(S), "k* Δ = v* − k* W"
    W += delta
    return edited


def what_moved(data, before, after, n, new):
    """Which answers are as they should be when n's home is overwritten, and the divergence elsewhere."""
    said, same = after.argmax(-1), after.argmax(-1) == before.argmax(-1)
    own, home, first = data.who == n, data.kind == "home", data.form == 0
    is_namesake = np.array([bool({*PEOPLE[n]} & {*PEOPLE[who]}) for who in data.who])
    kl = (np.exp(before) * (before - after)).sum(-1)
    return (
        np.mean(said[own & home & first] == new),
        np.mean(said[own & home & ~first] == new),
        same[own & ~home].mean(),
        same[~own & is_namesake & home].mean(),
        same[~own & ~is_namesake & home].mean(),
        kl[~own].mean(),
    )


def edits(model, data, people, layer, plain=False):
    """The mean of what_moved over edits of one person each; plain: with S = 1."""
    S = np.eye(model.config.ffn_width) if plain else second_moment(model, data, layer)
    homes = [NUMBER[home] for home in ANSWERS["home"]]
    old = [data.answer[data.rows("home", 0, n)[0]] for n in people]
    new = [homes[(homes.index(home) + 1) % len(homes)] for home in old]
    before, found = answers(model, data), []
    for n, to, key, value in zip(people, new, *keys_and_values(model, data, layer, people, new)):
        after = answers(overwritten(model, layer, key, value, S), data)
        found.append(what_moved(data, before, after, n, to))
    return np.mean(found, 0)


def draw(figure, effect, words):
    """What restoring each state brings back."""
    top = max(e.max() for e in effect.values())
    for ax, kind, title in zip(figure.subplots(1, 3), KINDS, ("stream", "feed-forward", "attention")):
        image = ax.imshow(effect[kind], cmap="Purples", vmin=0, vmax=top, aspect="auto")
        ax.set(title=title, yticks=range(len(effect[kind])), xticks=range(len(words)))
        ax.set_xticklabels(words, rotation=40, ha="right")
        ax.tick_params(length=0)
    figure.axes[0].set(ylabel="layer")
    figure.colorbar(image, ax=figure.axes, label="probability brought back")


def tell_trace(total, effect, words):
    """The table of causal tracing."""
    print(f"noise on the name takes {total:.2f} of the answer's probability; restoring a state brings back")
    print(f"{'':24}{''.join(f'{word:>8}' for word in words)}")
    for kind in KINDS:
        for layer, row in enumerate(effect[kind]):
            print(f"{kind:>12}, layer {layer}   {''.join(f'{x:8.2f}' for x in row)}")


def main(argv=None):
    """Teach, trace, edit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="of teaching (default: 600)")
    parser.add_argument("--seed", type=int, default=1, help="of facts, weights and batches (default: 1)")
    picture.add_flag(parser)
    args = parser.parse_args(argv)
    show = picture.to(args.plot, title=__doc__.partition("\n")[0])
    data = corpus(args.seed)
    model = taught(data, args.steps, args.seed)
    known = np.mean(answers(model, data).argmax(-1) == data.answer)
    print(f"{len(PEOPLE)} homes and {len(PEOPLE)} trades: {known:.1%} of {len(data.who)} answers are right")
    assert known > 0.99

    total, effect = traced(model, data)
    words = [*BEFORE[TRACED].split(), "FIRST", "LAST", "lives", "in"]
    tell_trace(total, effect, words)
    s = words.index("LAST")
    early = effect["mlp"][:, s]
    assert effect["resid_post"][0, :-1].argmax() == s, "the fact passes the last word of the name"
    assert early.argmax() == 0 and early[-1] < 0.02 < early[0], "what the last layer has there nobody reads"

    people = np.random.default_rng(1).permutation(len(PEOPLE))[:12]
    print("\nedited     says it  reworded  own trade   homes of namesakes, of others   KL elsewhere")
    found = {}
    for name, at, plain in (("layer 0", 0, False), ("layer 1", 1, False), ("0, S = 1", 0, True)):
        found[name] = edits(model, data, people, at, plain)
        says, reworded, trade, namesakes, others, kl = found[name]
        print(f"{name:9}{says:9.2f}{reworded:10.2f}{trade:11.2f}{namesakes:21.2f}{others:11.2f}{kl:15.4f}")
    best, late, blunt = found.values()
    assert best[0] > max(0.7, late[0]) and best[1] > 0.3 and min(best[3:5]) > 0.85
    assert blunt[5] > 3 * best[5] and blunt[3] < best[3], "without S, others move"
    show(lambda figure: draw(figure, effect, words), size=(9.6, 3.2))
    print(
        f"\nOne rank at the last word of the name, in layer 0, makes {best[0]:.0%} of the sentences say a new"
    )
    print(
        f"home, {best[1]:.0%} in other words. {1 - best[2]:.0%} of the same people's trades change with it."
    )


if __name__ == "__main__":
    main()
