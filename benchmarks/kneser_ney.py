"""Kneser and Ney's interpolated n-gram model: what counting alone predicts of a text.

With N₁₊(·g) the number of different tokens before g in the text, and c(g) how often the n-gram g occurs there
where n is the longest, or else N₁₊(·g):

    pₙ(w | h) = (c(hw) − d(hw)) / Σ_v c(hv)  +  Σ_v d(hv) / Σ_v c(hv) · pₙ₋₁(w | h')

h' is h without its first token. Below the shortest stands 1 / V. A context that does not occur leaves all
to pₙ₋₁. The discount d of an n-gram depends on c, and is estimated from how many, nᵢ, have c = i:

    d = 1 − 2 Y n₂/n₁,  2 − 3 Y n₃/n₂,  3 − 4 Y n₄/n₃   for c = 1, 2 and more      Y = n₁ / (n₁ + 2 n₂)

Source: Chen and Goodman 1998, "modified Kneser-Ney".
"""

import numpy as np


class KneserNey:
    """The model of a text's tokens (N,); an n-gram is kept as the integer whose digits in base V it is."""

    def __init__(self, tokens, vocab_size, order=5):
        if vocab_size**order >= 2**63:
            raise SystemExit(
                f"kneser_ney: {vocab_size}^{order} is too large for 64 bits: choose a smaller order"
            )
        self.V, self.order = vocab_size, order
        self.tables = []  # from the longest n-gram down to the single token
        grams, counts = np.unique(codes(tokens, vocab_size, order), return_counts=True)
        for n in range(order, 0, -1):
            self.tables.append((n, *self._table(grams, counts)))
            # A shorter n-gram counts once for each n-gram that ends with it.
            grams, counts = np.unique(grams % vocab_size ** (n - 1), return_counts=True)

    def _table(self, grams, counts):
        """(grams, c − d, contexts, and by context Σ c and Σ d) of an order."""
        contexts, first = np.unique(
            grams // self.V, return_index=True
        )  # grams are sorted, so contexts are too
        d = discounts(counts)
        return grams, counts - d, contexts, np.add.reduceat(counts, first), np.add.reduceat(d, first)

    def probabilities(self, tokens):
        """p of each token from number order − 1 on, given those before it.  (N,) → (N − order + 1,)"""
        whole = codes(tokens, self.V, self.order)
        p = np.full(len(whole), 1 / self.V)
        for n, grams, kept, contexts, sums, left in reversed(self.tables):
            gram = whole % self.V**n
            context = gram // self.V
            total = looked_up(context, contexts, sums)
            some = np.maximum(total, 1)
            mixed = looked_up(gram, grams, kept) / some + looked_up(context, contexts, left) / some * p
            p = np.where(total > 0, mixed, p)
        return p

    def bits(self, tokens):
        """−Σ log₂ p over the tokens from number order − 1 on."""
        return float(-np.log2(self.probabilities(tokens)).sum())


def discounts(counts):
    """d of each count; one for all, Y, where too few n-grams are rare to estimate three."""
    n = [int((counts == i).sum()) for i in range(5)]
    if not all(n[1:]):
        return np.full(len(counts), n[1] / max(n[1] + 2 * n[2], 1))
    Y = n[1] / (n[1] + 2 * n[2])
    by_count = [i - (i + 1) * Y * n[i + 1] / n[i] for i in (1, 2, 3)]
    return np.array(by_count)[np.minimum(counts, 3) - 1]


def codes(tokens, V, n):
    """The n-gram that ends at each token, as an integer.  (N,) → (N − n + 1,)"""
    tokens = np.asarray(tokens, np.int64)
    ends = len(tokens) - n + 1
    return sum(tokens[i : i + ends] * V ** (n - 1 - i) for i in range(n))


def looked_up(wanted, keys, values):
    """The value of each wanted key among the sorted keys; 0 for those that are not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
