"""How does a model come to copy? A picture of its loss, and of the attention that learned to look back.

python loss_and_attention.py --plot picture.svg   draws the picture of the README: pip install '.[plot]'
"""

import numpy as np
import picture

import numgpt

LETTERS = np.array(list("abcdefgh"))
STEPS, HALF = 600, 9  # the second half of each text repeats the first


def batch(seed, size):
    """Tokens and targets (B, 2·9 − 1). Those in the first half do not count: nobody could know them."""
    half = np.random.default_rng(seed).integers(0, len(LETTERS), (size, HALF))
    text = np.concatenate([half, half], axis=1)
    targets = text[:, 1:].copy()
    targets[:, : HALF - 1] = -1
    return text[:, :-1], targets


def train():
    """(the model, its loss at each step)"""
    config = numgpt.Config(vocab_size=8, block_size=2 * HALF - 1, n_layer=1, n_head=1, n_embd=32, bias=False)
    training = numgpt.Training(steps=STEPS, lr=3e-3, warmup=50)
    model = numgpt.GPT(config, seed=0)
    optimizer = numgpt.AdamW(model, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        loss, grads = model.loss_and_grads(*batch(step, 32))
        optimizer.step(grads, lr=numgpt.learning_rate(step, training))
        losses.append(float(loss))
    return model, losses


def attention_map(model, tokens):
    """The probabilities (T, T) with which each position of the first row reads from those before it."""
    return model.record(tokens).value["h.0.attn.heads.probs"][0, 0]


def looks_back(probs):
    """The share of attention that the second half gives to the letter that followed last time."""
    rows = np.arange(HALF, 2 * HALF - 1)
    return probs[rows, rows - HALF + 1].mean()


def draw(figure, losses, probs, text):
    """Loss and attention beside each other."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 0.92))
    guess = np.log(len(LETTERS))
    left.plot(losses, color="#1f4e8c", linewidth=1.2)
    left.axhline(guess, color="#707070", linewidth=1, linestyle="--")
    left.text(STEPS, guess - 0.04, "a blind guess, ln 8", ha="right", va="top", color="#707070")
    left.set(title="the loss of a GPT that learns to copy", xlabel="step", ylabel="nats a letter")
    left.set(xlim=(0, STEPS), ylim=(0, 2.5))
    image = right.imshow(probs, cmap="Blues", vmin=0, vmax=1)
    right.set(title="its attention: what came next, last time?", xlabel="reads from", ylabel="position")
    right.set_xticks(range(len(text)), text)
    right.set_yticks(range(len(text)), text)
    right.tick_params(length=0)
    right.axhline(HALF - 0.5, color="#bbbbbb", linewidth=0.8)
    right.axvline(HALF - 0.5, color="#bbbbbb", linewidth=0.8)
    right.spines[["top", "right"]].set_visible(True)
    figure.colorbar(image, ax=right, shrink=0.8, label="share of attention")


def main():
    """Train, find the head, draw it if a file is named."""
    show = picture.script(__doc__)
    model, losses = train()
    tokens, _ = batch(10**6, 1)
    probs = attention_map(model, tokens)
    share = looks_back(probs)
    guess = np.log(len(LETTERS))
    print(
        f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} after {STEPS} steps; a blind guess is {guess:.3f}"
    )
    assert losses[-1] < 0.1 < 0.7 < share
    show(lambda figure: draw(figure, losses, probs, LETTERS[tokens[0]]), size=(9.2, 4))
    print(f"The second half gives {share:.0%} of its attention to the letter that followed last time.")


if __name__ == "__main__":
    main()
