"""What does tokenization do to a small model? Characters against byte pairs, in bits per byte.

--seeds N does the same for other seeds too. With --steps 8000, eight times as many, little is left of the
gain: 0.02 bits per byte.
"""

import argparse

import numpy as np

import numgpt
from numgpt import tokenizers
from numgpt.data import corpus as data
from numgpt.evaluation.score import score
from numgpt.model.accounting import flops_per_token
from numgpt.training.trainer import Trainer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, default=1, help="how many seeds (default: %(default)s)")
parser.add_argument("--steps", type=int, default=1000, help="of the characters' model (default: %(default)s)")
args = parser.parse_args()

numgpt.set_threads(1)  # a second one gains nothing on a model of this size
characters = data.prepare("numgpt:python", tokenizer="chars")
text = characters.tokenizer.decode(characters.train)  # what is held out teaches neither model nor tokenizer
pairs = data.prepare("numgpt:python", tokenizer=tokenizers.train(text, 512))
assert pairs.tokenizer.decode(pairs.held_out) == characters.tokenizer.decode(characters.held_out)
phrase = "the statement is executed"
pieces = [pairs.tokenizer.pieces[i].decode() for i in pairs.tokenizer.encode(phrase)]
print(f"{phrase!r} as byte pairs: {'|'.join(pieces)}\n")


def bytes_per_token(corpus):
    return len(corpus.tokenizer.decode_bytes(corpus.train)) / len(corpus.train)


def trained(corpus, steps, seed):
    """The same blocks, and as many tokens a step: what a token is differs, and with it the vocabulary."""
    shape = {"block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 64, "bias": False}
    config = numgpt.Config(vocab_size=corpus.tokenizer.vocab_size, **shape)
    model = numgpt.GPT(config, seed, tokenizer=corpus.tokenizer)
    training = numgpt.Training(steps=steps, lr=3e-3, warmup=50, batch_size=12, seed=seed)
    trainer = Trainer(model, corpus, training)
    for _ in range(steps):
        trainer.step()
    return model


columns = ("vocabulary", "parameters", "bytes read", "tokens read", "10⁹ FLOPs", "nats a token")
print("seed  tokens are ", *columns, "bits per byte", sep="  ")
gains, work = [], {}
for seed in range(args.seeds):
    bits = []
    for name, corpus in (("characters", characters), ("byte pairs", pairs)):
        # As many steps as read the same number of bytes.
        steps = round(args.steps * bytes_per_token(characters) / bytes_per_token(corpus))
        model = trained(corpus, steps, seed)
        result = score(model, np.asarray(corpus.held_out), stride=32)
        tokens = steps * 12 * 64
        # The backward costs twice the forward.
        work[name] = 3 * sum(flops_per_token(model.config, 64).values()) * tokens
        bits.append(result.bits_per_byte)
        cells = (
            f"{seed:4}",
            f"{name:11}",
            f"{model.config.vocab_size:10}",
            f"{model.n_params:10,}",
            f"{tokens * bytes_per_token(corpus):10,.0f}",
            f"{tokens:11,}",
            f"{work[name] / 1e9:9,.0f}",
            f"{result.loss:12.3f}",
            f"{bits[-1]:13.3f}",
        )
        print(*cells, sep="  ", flush=True)
    gains.append(bits[0] - bits[1])

share = work["byte pairs"] / work["characters"]
assert bytes_per_token(pairs) > 2 * bytes_per_token(characters) and share < 0.75
assert min(gains) > 0
print(
    f"\nA token of byte pairs is harder to guess, but stands for {bytes_per_token(pairs):.2f} bytes, and 64"
    f" of them reach as much further back: having read the same bytes, by {share:.0%} of the work, the model"
    f" needs {min(gains):.2f} bits per byte less. The price is an embedding with"
    f" {512 - characters.tokenizer.vocab_size} more rows."
)
