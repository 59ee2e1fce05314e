"""Does a falling loss of preferences mean that the model writes what is preferred?

A model copies or reverses four digits, half and half. Pairs prefer the reversal. DPO with a small β drives
its loss to nearly 0, and tells every pair right, while half of what the model then writes is neither: only
the difference of the two log-probabilities counts, and both may fall. A larger β, or the surprise at the
preferred response besides, repair it. What it does not show: how often this happens with longer texts.

    python preferences_break.py    three minutes
"""

import argparse

import numpy as np

import numgpt
from numgpt import tuning
from numgpt.data import BARE, Conversation, Message

CHARACTERS = "\n0123456789>"


def conversation(digits, answer):
    """Digits, and an answer to them."""
    return Conversation([Message("user", f"{digits}>"), Message("assistant", answer)])


def taught(model, objective_of, steps, lr):
    """Tune a model by an objective, for so many steps."""
    training = numgpt.Training(
        steps=steps, batch_size=64, lr=lr, min_lr=lr, warmup=10, weight_decay=0.0, eval_interval=steps
    )
    numgpt.Trainer(model, None, training, objective=objective_of(training)).run()


def shares(model, asked, seed=0):
    """The shares of samples that are reversed, copied, and neither."""
    prompts = [Conversation([Message("user", f"{digits}>")]) for digits in asked]
    found = tuning.respond(model, prompts, BARE, max_new_tokens=8, temperature=1.0, seed=seed)
    reversed_ = np.mean([text == digits[::-1] for text, digits in zip(found, asked)])
    copied = np.mean([text == digits for text, digits in zip(found, asked)])
    return reversed_, copied, 1 - reversed_ - copied, found[0]


def main(argv=None):
    """Teach both, prefer one, and look at what is written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1500, help="of teaching both (default: 1500)")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    numbers = rng.permutation(10_000)
    # A number that reads the same both ways prefers nothing.
    numbers = [f"{n:04}" for n in numbers if f"{n:04}" != f"{n:04}"[::-1]]
    asked, shown = numbers[:500], numbers[500:]

    config = numgpt.Config(len(CHARACTERS), block_size=12, n_layer=2, n_head=4, n_embd=64)
    base = numgpt.GPT(config, seed=1, tokenizer=numgpt.tokenizers.Characters(CHARACTERS))

    def example(digits, answer, context=0):
        return BARE.encode(conversation(digits, answer), base.tokenizer, context=context)

    both = [example(d, answer) for d in shown for answer in (d, d[::-1])]
    size = config.block_size
    taught(base, lambda t: tuning.Responses(both, t, size, pack=False), args.steps, 1e-3)
    pairs = [(example(d, d[::-1]), example(d, d)) for d in shown]

    print("                     loss  pairs right  ln p(preferred)   reversed  copied  neither   1234> …")
    print(f"{'before':17}                                         ", end="")
    before = shares(base, asked)
    print(show(before))
    found = {}
    for name, options in (
        ("DPO, β 0.1", {"beta": 0.1}),
        ("DPO, β 2", {"beta": 2.0}),
        ("DPO, β 0.1 + nll", {"beta": 0.1, "chosen_nll": 1.0}),
    ):
        model = base.extended()
        fixed = tuning.frozen(base)

        def objective_of(t, options=options, fixed=fixed):
            return tuning.Preferences(pairs[200:], t, size, fixed, pairs[:200], **options)

        taught(model, objective_of, 150, 1e-4)
        plain = tuning.Preferences(
            pairs[200:], numgpt.Training(batch_size=64), size, fixed, pairs[:200], beta=options["beta"]
        )
        loss = numgpt.Trainer(model, None, numgpt.Training(batch_size=64), objective=plain).evaluate()
        told = tuning.margins(model, plain)
        found[name] = shares(model, asked)
        figures = f"{loss['held_out_loss']:5.3f}  {told['accuracy']:11.3f}  {told['chosen']:15.2f}"
        print(f"{name:17}   {figures}   {show(found[name])}")
    broken, bold, repaired = found.values()
    assert broken[2] > 3 * before[2], "with a small β many samples should break"
    assert repaired[0] >= 0.8 and repaired[2] <= 0.2
    assert bold[2] < broken[2]
    print(f"\nEvery pair is told right, and {broken[2]:.0%} of the samples are neither; with the surprise at")
    print(f"the preferred response besides, {repaired[2]:.0%}. Look at samples, not at the loss.")


def show(row):
    """A row of shares, and the first sample."""
    return f"{row[0]:8.3f}  {row[1]:6.3f}  {row[2]:7.3f}   {row[3]}"


if __name__ == "__main__":
    main()
