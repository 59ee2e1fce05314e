"""How many words of what a model writes are words, and how much of it stands in its training text.

A word is a run of letters in lower case; it is real where the training text has it. The last word of a
sample may be cut, and does not count. Copied is a sequence of eight words that stands in the training text.

Usage: python benchmarks/real_words.py [MODEL ...]
"""

import argparse
import re
from typing import NamedTuple

import numpy as np

import numgpt
from numgpt.commands.printing import default_prompt
from numgpt.commands.sample import TEMPERATURE, TOKENS, TOP_P
from numgpt.model.generate import texts

LONG = 4  # letters of a word that no chance makes
SEQUENCE = 8  # words


class Shares(NamedTuple):
    """words: how many there are. real, real_long: shares of all, and of long ones. copied: of sequences."""

    words: int
    real: float
    real_long: float
    copied: float


def words_of(text):
    """The words of a text, in lower case."""
    return re.findall("[a-z]+", text.lower())


def sequences(words):
    """Every SEQUENCE words that follow each other."""
    return zip(*(words[i:] for i in range(SEQUENCE)))


def samples_of(model, n, tokens=TOKENS, seed=0, **sampling):
    """n texts behind the default prompt, at the default sampling unless told otherwise."""
    options = {"temperature": TEMPERATURE, "top_p": TOP_P, "seed": seed} | sampling
    parts = texts(model, default_prompt(model.tokenizer), tokens, samples=n, **options)
    return ["".join(sample) for sample in zip(*parts)]


def measure(samples, training_text):
    """The Shares of samples, where a training text says what is real."""
    known = words_of(training_text)
    vocabulary, there = set(known), set(sequences(known))
    samples = [words_of(sample)[:-1] for sample in samples]
    words = [word for sample in samples for word in sample]
    real = [word in vocabulary for word in words]
    long = [is_real for word, is_real in zip(words, real) if len(word) >= LONG]
    copied = [sequence in there for sample in samples for sequence in sequences(sample)]
    return Shares(len(words), *(float(np.mean(each)) if each else 0.0 for each in (real, long, copied)))


def main():
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["numgpt:austen"], help="(default: numgpt:austen)")
    parser.add_argument(
        "--data", default="numgpt:austen", help="the text that they were trained on (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=20, help="of each model (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a sample (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="(default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=TOP_P, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args()
    corpus = numgpt.prepare(args.data, tokenizer=numgpt.tokenizers.Bytes())
    training_text = corpus.tokenizer.decode(corpus.train)
    sampling = {"temperature": args.temperature, "top_p": args.top_p}
    print(
        f"{args.samples} samples of {args.tokens} tokens, temperature {args.temperature}, top-p {args.top_p}"
    )
    print("| model | words | real | real, of four letters and more | eight words copied |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in args.models:
        model = numgpt.GPT.load(name)
        found = measure(samples_of(model, args.samples, args.tokens, args.seed, **sampling), training_text)
        print(
            f"| {name} | {found.words:,} | {found.real:.3f} | {found.real_long:.3f} | {found.copied:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
