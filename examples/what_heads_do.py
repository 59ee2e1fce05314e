"""Do the heads of a small trained GPT do what articles say heads do?

Articles name kinds of heads: of the previous token, of a fixed distance, of the beginning of the sequence, of
the same token, of induction (Elhage et al. 2021; Olsson et al. 2022; Wang et al. 2022; Xiao et al. 2024).
Each is a share of attention here, measured on text that the shipped model has not seen, on the same tokens
shuffled, and on random ones; and beside it a control, which a head has that does nothing of the kind. A claim
holds of a head that gives half of its attention so, and three times its control. So it can fail, and most do:
of sixteen heads two look one token back, and no other kind is there. What the measures find where there is
something, a model that copies says; and that without a control it would be taken for what it is not.

What it does not show: what these heads are for, nor what larger models have.

    python what_heads_do.py --plot picture.svg    ten seconds
"""

import argparse

import loss_and_attention
import numpy as np
import picture

import numgpt
from numgpt.interpretability import (
    ablation,
    attention_maps,
    duplicate_token_score,
    first_token_score,
    induction_score,
    offset_score,
    surprise,
)

ROWS, T = 48, 64
FAR = range(2, 9)  # distances at which a head of a fixed one is looked for


def evenly(P, offset):
    """What a head has that attends evenly to all that it sees: the mean of 1/(t + 1) over t ≥ offset."""
    return np.full(P.shape[:2], np.mean(1 / (1 + np.arange(offset, P.shape[-1]))))


def mean_of_rows(scores):
    """The mean over texts, of those that have a score.  (N, H) → (H)"""
    return np.nanmean(scores, axis=0)


def by_distance(P):
    """The offset scores of each distance from 0.  (distance, H)"""
    return np.array([mean_of_rows(offset_score(P, k)) for k in range(max(FAR) + 1)])


def fixed_distance(P):
    """(the most that a head has at one of the distances, the same head one token nearer)  (H) each"""
    scores = by_distance(P)
    best = scores[FAR.start :].argmax(0) + FAR.start
    heads = np.arange(scores.shape[1])
    return scores[best, heads], scores[best - 1, heads]


# Claim → a function of attention (N, H, T, T) and ids (N, T) that gives score and control, (H) each.
CLAIMS = {
    "looks one token back": lambda P, ids: (
        mean_of_rows(offset_score(P, 1)),
        mean_of_rows(evenly(P, 1)),
    ),
    "looks a fixed 2 to 8 back": lambda P, ids: fixed_distance(P),
    "rests at the first token": lambda P, ids: (
        mean_of_rows(first_token_score(P)),
        mean_of_rows(evenly(P, 1)),
    ),
    # The control: at the places at which another text repeats its tokens.
    "looks for the same token": lambda P, ids: (
        mean_of_rows(duplicate_token_score(P, ids[:, None])),
        mean_of_rows(duplicate_token_score(P, np.roll(ids, 1, axis=0)[:, None])),
    ),
}


def scores_of(model, ids):
    """claim → (scores, controls), (L, H) each."""
    maps = attention_maps(model, ids).maps
    return {
        claim: np.stack([np.array(function(P, ids)) for P in maps], axis=1)
        for claim, function in CLAIMS.items()
    } | {"continues a repetition": induction(model, ids)}


def induction(model, ids):
    """Scores on the first half of each text twice; the control is the same distance where nothing repeats."""
    n = ids.shape[1] // 2
    twice = np.concatenate([ids[:, :n], ids[:, :n]], axis=1)
    return np.array(
        [
            [mean_of_rows(induction_score(P, n)) for P in attention_maps(model, given).maps]
            for given in (twice, ids)
        ]
    )


def inputs_of(model):
    """Held-out text, its tokens shuffled, and random ones, (N, T) each."""
    held_out = numgpt.prepare(tokenizer=model.tokenizer).held_out
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(held_out) - T, ROWS)
    text = np.stack([held_out[start : start + T] for start in starts]).astype(int)
    random = rng.integers(0, model.config.vocab_size, (ROWS, T))
    return {"text": text, "shuffled": rng.permuted(text, axis=1), "random": random}


def holds(score, control):
    """Whether a head is of a kind."""
    return score >= 0.5 and score >= 3 * control


def tell(found):
    """The table of claims: the head that has most of each in text; claim → how many heads it holds of."""
    print(
        f"{'claim':28}{'best head':>10}{'text':>8}{'control':>9}{'shuffled':>10}{'random':>8}   heads of it"
    )
    counts = {}
    for claim in found["text"]:
        scores, controls = found["text"][claim]
        layer, head = np.unravel_index(scores.argmax(), scores.shape)
        counts[claim] = sum(holds(*pair) for pair in zip(scores.ravel(), controls.ravel()))
        others = [found[name][claim][0, layer, head] for name in ("shuffled", "random")]
        print(
            f"{claim:28}{f'{layer}.{head}':>10}{scores[layer, head]:8.3f}{controls[layer, head]:9.3f}"
            f"{others[0]:10.3f}{others[1]:8.3f}   {counts[claim]} of {scores.size}"
        )
    return counts


def tell_losses(model, text):
    """How much worse text is predicted with the mean of a head in its place.  (L, H)"""
    rows = text[:16]
    effect = ablation(model, rows[:, :-1], surprise(model, rows[:, 1:]), at="heads", how="mean").effect
    print("\nwith its mean in its place the surprise at a token rises by, in nats, head by head")
    for layer, row in enumerate(effect):
        print(f"layer {layer}   {'  '.join(f'{x:7.4f}' for x in row)}")
    return effect


def copier_scores():
    """Of the head of a model that copies: offset and induction scores where letters repeat, and do not."""
    model, _ = loss_and_attention.train()
    n = loss_and_attention.HALF
    repeated, _ = loss_and_attention.batch(10**6, 64)
    unrelated = np.random.default_rng(1).integers(0, 8, repeated.shape)
    maps = [attention_maps(model, ids).maps[0] for ids in (repeated, unrelated)]
    return [float(offset_score(P, n - 1).mean()) for P in maps] + [
        float(induction_score(P, n).mean()) for P in maps
    ]


def draw(figure, P):
    """Shares of attention by distance, a line for each head."""
    for layer, ax in enumerate(figure.subplots(1, len(P), sharey=True)):
        for head, scores in enumerate(by_distance(P[layer]).T):
            ax.plot(scores, marker="o", markersize=3, label=f"head {head}")
        ax.set(title=f"layer {layer}", xlabel="tokens back", ylim=(0, 0.7))
    figure.axes[0].set(ylabel="share of attention")
    figure.axes[0].legend(fontsize=8)


def main(argv=None):
    """Measure the claims, and what heads are worth; then the same where it is known what there is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    picture.add_flag(parser)
    args = parser.parse_args(argv)
    show = picture.to(args.plot, title=__doc__.partition("\n")[0])
    model = numgpt.GPT.load("numgpt:austen")
    inputs = inputs_of(model)
    found = {name: scores_of(model, ids) for name, ids in inputs.items()}
    counts = tell(found)
    assert list(counts.values()) == [2, 0, 0, 0, 0]
    previous = found["text"]["looks one token back"][0]
    shuffled = found["shuffled"]["looks one token back"][0]
    assert shuffled.max() > 0.75 * previous.max(), "it is the place that they look for, not what stands there"
    same, control = found["text"]["looks for the same token"]
    assert same.max() > 1.5 * control[np.unravel_index(same.argmax(), same.shape)], "a trace of this one"

    effect = tell_losses(model, inputs["text"])
    assert set(np.argsort(-effect.ravel())[:2]) == set(np.argsort(-previous.ravel())[:2]), (
        "these are missed most"
    )
    offset, offset_unrelated, score, unrelated = copier_scores()
    back = loss_and_attention.HALF - 1
    print(f"\na model that copies from {back} tokens back, where letters:   repeat  do not")
    print(f"{'share at that distance':45}{offset:13.3f}{offset_unrelated:8.3f}")
    print(f"{'induction score':45}{score:13.3f}{unrelated:8.3f}")
    assert min(offset, score) > 0.5, "the measures find what is there"
    assert unrelated > 0.5 * score, (
        "this one looks by position: no head of induction, whatever its score says"
    )
    show(lambda figure: draw(figure, attention_maps(model, inputs["text"]).maps), size=(11, 3.2))
    print("\nOf five kinds one is there: two heads look one token back, by place more than by what stands")
    print("there, and text is worse predicted without them than without any other.")


if __name__ == "__main__":
    main()
