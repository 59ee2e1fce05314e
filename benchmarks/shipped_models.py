"""What the models that ship are worth: bits per byte beside n-grams, real words, and what is copied.

The held-out text is what their training held out: blocks of paragraphs from the same novels.

Usage: python benchmarks/shipped_models.py [MODEL ...]
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import real_words
from kneser_ney import KneserNey

import numgpt
from numgpt.evaluation.score import score
from numgpt.interchange.checkpoint import MODEL
from numgpt.storage.shipped import located, models

ORDER = 5  # of the n-grams


def n_gram_bits(corpus):
    """Bits per byte of the held-out tokens by an n-gram model of those that were trained on."""
    counted = KneserNey(corpus.train, corpus.tokenizer.vocab_size, ORDER)
    held_out = np.asarray(corpus.held_out)
    return counted.bits(held_out) / corpus.tokenizer.count_bytes(held_out[ORDER - 1 :])


def main():
    """Print a block for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "models", nargs="*", default=models(), help="names or folders (default: all that ship)"
    )
    parser.add_argument(
        "--samples", type=int, default=50, help="texts that are looked at (default: %(default)s)"
    )
    args = parser.parse_args()
    for name in args.models:
        model = numgpt.GPT.load(name)
        corpus = numgpt.prepare("numgpt:austen", tokenizer=model.tokenizer)
        ids = np.asarray(corpus.held_out)
        held_out = score(model, ids)
        trained_on = score(model, np.asarray(corpus.train)[: len(ids) // 4])
        samples = real_words.samples_of(model, args.samples)
        found = real_words.measure(samples, model.tokenizer.decode(corpus.train))
        data = (Path(located(name)) / MODEL).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        print(f"{name}: {model.n_params:,} parameters, {len(data):,} bytes, SHA-256 {digest}")
        print(f"  bits per byte, held out        {held_out.bits_per_byte:.4f}, of {held_out.bytes:,} bytes")
        print(f"  of a text that it trained on   {trained_on.bits_per_byte:.4f}")
        print(f"  Kneser and Ney's {ORDER}-grams       {n_gram_bits(corpus):.4f}")
        print(
            f"  real words                     {found.real:.3f} of {found.words:,}, of the long ones"
            f" {found.real_long:.3f}"
        )
        print(f"  eight words copied             {found.copied:.4f}", flush=True)


if __name__ == "__main__":
    main()
