"""Does a model that learns to answer learn to add, or does it learn the sums by heart?

Conversations "17+25=" → "24", the sum's digits from the last to the first, so that each can be written when
it is known. A tenth of the 10,000 sums is held out by a random permutation. Supervised fine-tuning counts the
response alone, its end included. With --more the digits are turned round, and an adapter of rank 8 learns
that as well as all parameters do.

    python teach_addition.py                            half a minute
    python teach_addition.py --steps 2550 --more 1000   five minutes: every held-out sum is right
"""

import argparse
import time

import numpy as np

import numgpt
from numgpt import tuning
from numgpt.data import BARE, Conversation, Message, permuted_split

CHARACTERS = "\n+0123456789="


def sums(turned):
    """All 10,000 conversations of two numbers below 100; turned: the last digit of the sum first."""
    for a in range(100):
        for b in range(100):
            digits = f"{a + b}"[::-1] if turned else f"{a + b}"
            yield Conversation([Message("user", f"{a:02}+{b:02}="), Message("assistant", digits)])


def right(model, conversations, **sampling):
    """The share of conversations whose response is right."""
    asked = [Conversation(c.messages[:1]) for c in conversations]
    found = tuning.respond(model, asked, BARE, max_new_tokens=5, batch_size=1024, **sampling)
    return np.mean([text == c.messages[1].text for text, c in zip(found, conversations)])


def parts(turned):
    """The conversations to learn from, and those that are held out."""
    every = list(sums(turned))
    train, held_out = permuted_split(len(every), 0.1, seed=0)
    return [every[i] for i in train], [every[i] for i in held_out]


def taught(model, conversations, steps, lr):
    """Tune a model on conversations, for so many steps."""
    training = numgpt.Training(
        steps=steps, batch_size=128, lr=lr, warmup=20, weight_decay=0.01, eval_interval=steps
    )
    examples = [BARE.encode(c, model.tokenizer) for c in conversations]
    objective = tuning.Responses(examples, training, model.config.block_size, pack=False)
    optimizer = tuning.optimizer_of(model, training, tuning.trained_names(model))
    begin = time.perf_counter()
    numgpt.Trainer(model, None, training, objective=objective, optimizer=optimizer).run()
    return time.perf_counter() - begin


def main(argv=None):
    """Teach, and ask what was held out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=550, help="of the first part (default: 550)")
    parser.add_argument(
        "--more", type=int, default=0, help="of the second part, for each model (default: none)"
    )
    args = parser.parse_args(argv)

    train, held_out = parts(turned=True)
    config = numgpt.Config(len(CHARACTERS), block_size=12, n_layer=2, n_head=4, n_embd=64)
    model = numgpt.GPT(config, seed=1, tokenizer=numgpt.tokenizers.Characters(CHARACTERS))
    seconds = taught(model, train, args.steps, 1e-3)
    greedy, sampled = right(model, held_out), right(model, held_out, temperature=1.0, seed=0)
    print(f"{args.steps} steps in {seconds:.0f} s; of {len(held_out)} sums that were held out")
    print(f"right greedily {greedy:.3f}, sampled {sampled:.3f}")
    for conversation in held_out[:3]:
        asked = Conversation(conversation.messages[:1])
        print(f"  {asked.messages[0].text}{tuning.respond(model, [asked], BARE, max_new_tokens=5)[0]}")
    assert greedy > (0.99 if args.steps >= 2500 else 0.9), greedy
    if not args.more:
        print("It adds: none of these sums was shown.")
        return

    train, held_out = parts(turned=False)
    print("\nnow the first digit first; what is trained, and how many of the held-out sums are right:")
    found = {}
    for name, additions, lr in (("all", (), 5e-4), ("rank 8", (numgpt.LoRA(8, 16.0),), 3e-3)):
        other = model.extended(*additions)
        before = other.params["h.0.attn.c_attn.weight"].copy()
        taught(other, train, args.more, lr)
        found[name] = right(other, held_out)
        n = sum(other.params[p].size for p in tuning.trained_names(other) or other.params)
        print(f"  {name:7} {n:>7,} numbers  {found[name]:.3f}")
        is_base = np.array_equal(before, other.params["h.0.attn.c_attn.weight"])
        assert is_base == bool(additions)
    assert found["rank 8"] > found["all"] - 0.01
    print("An adapter of a sixth of the numbers learns the other order as well.")


if __name__ == "__main__":
    main()
