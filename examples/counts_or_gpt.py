"""When does a GPT tell texts apart better than counts of their words?

Two questions about paragraphs of Jane Austen's novels: which of the six is it from, and are its words in
their order or shuffled? The GPT that ships, with a head on it, is fine-tuned on each; beside it stands
logistic regression on the counts of words, with a weight decay chosen on a part of what it learns from.
Whatever begins with a capital letter is left out, for names would tell the novel. A tenth of the paragraphs
is held out by a random permutation. The GPT was trained on nine tenths of these novels as plain text, so it
has read most of what is held out, if never with a label.

    python counts_or_gpt.py    five minutes
"""

import argparse
import re

import numpy as np

import numgpt
from numgpt import tuning
from numgpt.data import corpora, permuted_split

# Each novel by its first words, in the order in which the text has them.
NOVELS = {
    "Sense and Sensibility": "The family of Dashwood",
    "Pride and Prejudice": "It is a truth universally acknowledged",
    "Mansfield Park": "About thirty years ago Miss Maria Ward",
    "Emma": "Emma Woodhouse, handsome",
    "Northanger Abbey": "No one who had ever seen Catherine Morland",
    "Persuasion": "Sir Walter Elliot, of Kellynch",
}
ORDERS = ("in order", "shuffled")
WORD = re.compile(r"[A-Za-z']+")
LENGTH = 300  # characters of a paragraph, at least; more are cut off


def paragraphs():
    """(text, novel) of every long paragraph, without words that begin with a capital letter."""
    text = corpora.austen()
    begins = [text.index(words) for words in NOVELS.values()]
    assert begins == sorted(begins)
    for novel, (begin, end) in enumerate(zip(begins, [*begins[1:], len(text)])):
        for paragraph in text[begin:end].split("\n\n"):
            kept = " ".join(word for word in paragraph.split() if not re.match(r"\W*[A-Z]", word))
            if len(kept) >= LENGTH:
                yield kept[:LENGTH], novel


def in_order_or_not(texts):
    """The texts, the words of every second one shuffled; and which ones."""
    rng = np.random.default_rng(0)
    labels = np.arange(len(texts)) % 2
    shuffled = [
        " ".join(rng.permutation(text.split())) if label else text for text, label in zip(texts, labels)
    ]
    return shuffled, labels


class Counts:
    """Logistic regression on the square roots of how often each word stands in a text, all by hand."""

    def __init__(self, texts, labels, n, decay, steps=300):
        words = [word for text in texts for word in set(WORD.findall(text.lower()))]
        names, often = np.unique(words, return_counts=True)
        self.vocabulary = {word: n for n, word in enumerate(names[often >= 3])}
        x, truth = self.counted(texts), np.eye(n)[labels]
        self.mean = x.mean(0)
        x = x - self.mean
        self.weight, self.bias = np.zeros((len(self.vocabulary), n)), np.log(truth.mean(0))
        for _ in range(steps):
            scores = x @ self.weight + self.bias
            probs = np.exp(scores - scores.max(-1, keepdims=True))
            error = (probs / probs.sum(-1, keepdims=True) - truth) / len(x)
            self.weight -= 4.0 * (x.T @ error + decay * self.weight)
            self.bias -= 4.0 * error.sum(0)

    def counted(self, texts):
        """(N, V)."""
        counts = np.zeros((len(texts), len(self.vocabulary)))
        for row, text in zip(counts, texts):
            for word in WORD.findall(text.lower()):
                if word in self.vocabulary:
                    row[self.vocabulary[word]] += 1
        return np.sqrt(counts)

    def __call__(self, texts):
        return ((self.counted(texts) - self.mean) @ self.weight + self.bias).argmax(-1)


def regression(texts, labels, unseen, n):
    """The classes that logistic regression gives to unseen texts, its decay chosen on a tenth of texts."""
    train, rest = permuted_split(len(texts), 0.1, seed=1)

    def right(decay):
        fit = Counts([texts[i] for i in train], labels[train], n, decay)
        return (fit([texts[i] for i in rest]) == labels[rest]).mean()

    decay = max((1e-4, 1e-3, 1e-2), key=right)
    return Counts(texts, labels, n, decay)(unseen)


def fine_tuned(texts, labels, unseen, names, epochs):
    """The classes that the GPT with a head gives to unseen texts, after it was trained on texts."""
    model = numgpt.GPT.load("numgpt:austen").extended(numgpt.Head(labels=names, pool="mean"))

    def ids(texts):
        return [model.tokenizer.encode(t, special="text")[: model.config.block_size] for t in texts]

    training = numgpt.Training(
        steps=epochs * len(texts) // 32, batch_size=32, lr=5e-4, min_lr=0.0, warmup=20, weight_decay=0.1
    )
    objective = tuning.Tasks(model, ids(texts), labels, training)
    numgpt.Trainer(model, None, training, objective=objective).run()
    return tuning.predictions(model, ids(unseen)).argmax(-1)


def lead(right, other):
    """How many more are right, with the error of that: of differences, for the texts are the same ones."""
    gain = right.astype(float) - other
    return gain.mean(), gain.std() / np.sqrt(len(gain))


def compared(question, texts, labels, names, epochs):
    """The GPT's lead over counts on what is held out, and over the commonest class, each with its error."""
    train, held_out = permuted_split(len(texts), 0.1, seed=0)
    known, unseen, truth = [texts[i] for i in train], [texts[i] for i in held_out], labels[held_out]
    commonest = np.bincount(labels[train]).argmax()
    found = {
        "the commonest": np.full(len(truth), commonest),
        "counts": regression(known, labels[train], unseen, len(names)),
        "the GPT": fine_tuned(known, labels[train], unseen, names, epochs),
    }
    print(f"{question} {len(train):,} paragraphs to learn from, {len(truth)} held out; right are")
    right = {name: guesses == truth for name, guesses in found.items()}
    for name, is_right in right.items():
        print(f"  {name:13} {is_right.mean():.3f} ± {is_right.std() / np.sqrt(len(truth)):.3f}")
    for i in range(3):
        guesses = ", ".join(f"{name}: {names[found[name][i]]}" for name in ("counts", "the GPT"))
        print(f"  “…{unseen[i][:50]}…” is {names[truth[i]]}; {guesses}")
    return tuple(lead(right["the GPT"], right[name]) for name in ("counts", "the commonest"))


def main(argv=None):
    """Ask both questions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2, help="of the first question (default: 2)")
    args = parser.parse_args(argv)
    texts, novels = zip(*paragraphs())
    (gain, error), (learned, its_error) = compared(
        "Which novel?", texts, np.array(novels), tuple(NOVELS), args.epochs
    )
    print(f"  the GPT's lead over counts {gain:+.3f} ± {error:.3f}\n")
    assert learned > 3 * its_error
    assert gain < 2 * error  # it is not ahead, as far as 400 texts can tell

    shuffled, labels = in_order_or_not(texts[::2])
    (gain, error), _ = compared("Are the words in order?", shuffled, labels, ORDERS, 1)
    print(f"  the GPT's lead over counts {gain:+.3f} ± {error:.3f}\n")
    assert gain > 5 * error
    print("Where words tell, the GPT is no better than counts; where their order does, it is by far.")


if __name__ == "__main__":
    main()
