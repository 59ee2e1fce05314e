"""Training of byte-pair encoding: the most frequent pair of neighbours becomes a token, again and again."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import checked
from ..errors import InputError
from .bpe import BPE
from .patterns import Pattern
from .spelling import ALPHABET, unspell
from .tokenizer import expect_characters, finder, utf8

BYTES = [unspell(c) for c in sorted(ALPHABET)]  # the tokens that are there before any merge, in GPT-2's order
BLOCK = 2**20  # characters that are cut into pretokens at once
SMALL = 2**24  # symbols times merges up to which the specification is done before its twin is loaded
MOST_COUNTED = 2**62  # a min_frequency beyond this would not fit the twin's 64 bits, and is never reached
_IDS = np.argsort(np.frombuffer(b"".join(BYTES), np.uint8)).astype(np.int32)  # byte → its token


@checked
def train(
    texts: str | Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "gpt2",
    specials: str | Iterable[str] = (),
    min_frequency: int = 2,
    progress: bool = False,
) -> BPE:
    """A byte-level BPE whose merges are learned from a text.

    As long as there are fewer than vocab_size tokens: count every pair of neighbours, join the most frequent
    one wherever it stands, and let what it makes be the next token. Of pairs that are equally frequent, the
    one with the least left id is taken, and of those the one with the least right id. In a run "aaa" the pair
    "aa" counts twice, and is joined from the left. Pairs are counted within the pretokens that the pattern
    cuts the text into, so no token reaches over a cut.

    The merges are those of Hugging Face's BpeTrainer with the same pattern and min_frequency and
    initial_alphabet=ByteLevel.alphabet(), as long as no count reaches its limit of 2³¹.

    Memory is linear in the number of distinct pretokens, not in the text. A regular expression of your own
    needs the whole text between two special tokens in memory: nobody knows where it surely cuts.

    Parameters
    ----------
    texts
        A str, or an iterable of str, the parts of one text, cut anywhere.
    vocab_size
        How many tokens, in this order: the 256 bytes as in GPT-2's vocabulary, what the merges make, the
        specials. They are fewer where no pair occurs min_frequency times any more.
    pattern
        One of PATTERNS, or a regular expression of the regex package.
    specials
        Texts of the special tokens. The text is cut where one stands, and no pretoken holds it.
    min_frequency
        How often a pair must occur to be joined.
    progress
        Whether a terminal shows a bar, on stderr.

    Returns
    -------
    BPE
        The tokenizer.

    Raises
    ------
    InputError
        Where the text is empty, or a size or a special token cannot be used.

    Examples
    --------
    >>> from numgpt import tokenizers
    >>> tokenizer = tokenizers.train("she sells sea shells", 258, specials=["<|end|>"])
    >>> tokenizer
    <BPE: 258 tokens, 1 merge, pattern 'gpt2', special '<|end|>'>
    >>> tokenizer.tokens[256]
    b' s'

    References
    ----------
    Gage 1994; Sennrich et al. 2016; on bytes, Radford et al. 2019.
    """
    specials = _checked(vocab_size, specials, min_frequency)
    cut = Pattern(pattern)
    pretokens = count_pretokens(texts, cut, specials, progress)
    if not pretokens:
        raise InputError("train: the text is empty, expected one to learn merges from")
    merges = learn_merges(pretokens, int(vocab_size) - len(BYTES) - len(specials), min_frequency, progress)
    tokens = list(BYTES)
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return BPE(tokens, merges, cut.name, {text: i for i, text in enumerate(specials, len(tokens))})


def _checked(vocab_size: Any, specials: str | Iterable[str], min_frequency: Any) -> list[str]:
    """The special tokens as a list; InputError where one of the arguments cannot be used."""
    specials = [specials] if isinstance(specials, str) else list(specials)
    for text in specials:
        if not isinstance(text, str) or not text:
            raise InputError(
                f"train: {text!r} is no text among the special tokens, expected texts, all different"
            )
        expect_characters(text, "train: the special token")
        if specials.count(text) > 1:
            raise InputError(
                f"train: {text!r} is there twice among the special tokens, expected texts, all different"
            )
    least = len(BYTES) + len(specials)
    _expect_at_least("vocab_size", vocab_size, least, f" for 256 bytes and {len(specials)} specials")
    _expect_at_least("min_frequency", min_frequency, 1)
    return specials


def _expect_at_least(name: str, value: Any, least: int, why: str = "") -> None:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise InputError(f"train: {name} is {value!r}, expected an integer of at least {least}{why}")


def count_pretokens(
    texts: str | Iterable[str], pattern: Pattern, specials: Sequence[str] = (), progress: bool = False
) -> Counter[bytes]:
    """Pretoken, as bytes → how often the pattern cuts it out of a text. Other arguments as of train."""
    total = None
    if isinstance(texts, str):
        total = _size(texts) if progress else None
        texts = [texts]
    counts: Counter[str] = Counter()
    with _bar(progress, "counting", total, unit="B", unit_scale=True) as bar:
        for stretch in stretches(texts, specials, pattern):
            # What nothing cuts may be the whole text: then a list of all its pretokens would be too much.
            is_short = len(stretch) <= 2 * BLOCK
            counts.update(pattern.split(stretch) if is_short else _count_one_by_one(stretch, pattern))
            bar.update(_size(stretch) if progress else 0)
    pretokens: Counter[bytes] = Counter()
    for pretoken, count in counts.items():
        # Two of them may be the same bytes: é, and its bytes as surrogateescape shows them.
        pretokens[utf8(pretoken)] += count
    del pretokens[b""]
    return pretokens


def _count_one_by_one(stretch: str, pattern: Pattern) -> Counter[str]:
    """Counter of the pretokens, without a list of all."""
    counts = Counter(pattern.matches(stretch))
    if sum(len(pretoken) * count for pretoken, count in counts.items()) != len(stretch):
        pattern.split(stretch)  # raises, and says what it drops
    return counts


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def stretches(texts: Iterable[str], specials: Sequence[str], pattern: Pattern) -> Iterator[str]:
    """What stands between special tokens, in order, in stretches that end where the pattern cuts.

    texts: parts of one text, cut anywhere. The pretokens of the stretches are those of the whole. Where the
    pattern is sure of no cut, what stands between two special tokens stays in one stretch.
    """
    special = finder(specials) if specials else None
    longest = max(map(len, specials), default=0)
    waiting: list[str] = []
    size, enough = 0, BLOCK
    for block in chain(_blocks(texts), [None]):
        if block is not None:
            waiting.append(block)
            size += len(block)
            if size < enough:
                continue
        text, place = "".join(waiting), 0
        # A special token that begins up to here is there as a whole.
        known = len(text) if block is None else len(text) - longest
        for match in special.finditer(text) if special else ():
            if match.start() > known:
                break
            yield text[place : match.start()]
            place = match.end()
        if block is None:
            yield text[place:]
            return
        cut = pattern.safe_cut(text[place : max(place, known)])
        if cut:
            yield text[place : place + cut]
            place += cut
        waiting, size = [text[place:]], len(text) - place
        enough = max(BLOCK, 2 * size)  # doubled where nothing cuts, so that a long wait takes linear time


def _blocks(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"train: a part of the text is of type {type(text).__name__}, expected str")
        yield from (text[i : i + BLOCK] for i in range(0, len(text), BLOCK))


def learn_merges(
    pretokens: Mapping[bytes, int], n: int, min_frequency: int = 2, progress: bool = False
) -> list[tuple[int, int]]:
    """Up to n merges, pairs of ids, from pretokens (bytes → count).

    The specification learns them, or its twin where that is sooner done.
    """
    ids = _IDS[np.frombuffer(b"".join(pretokens), np.uint8)]
    n = min(n, len(ids))  # each merge joins at least two symbols into one
    lengths = np.fromiter(map(len, pretokens), np.int64)
    weights = np.fromiter(pretokens.values(), np.int64)
    run = learn if len(ids) * n <= SMALL else engine.host_twin(learn)
    with _bar(progress, "merging", n, unit="merge") as bar:
        return run(ids, lengths, weights, n, min(min_frequency, MOST_COUNTED), bar.update)


def learn(
    ids: NDArray[Any],
    lengths: NDArray[Any],
    weights: NDArray[Any],
    n: int,
    min_frequency: int,
    tell: Callable[[int], object],
) -> list[tuple[int, int]]:
    """The merges of words, as a list of pairs of ids; the k-th, from 0, makes the id 256 + k.

        count(a, b) = Σ over words w of weights[w] · (how often b follows a in w)
        next merge  = argmax count, among equals the least (a, b); none if its count is below min_frequency

    ids (S,): the words, one after the other. lengths, weights (W,): how many ids each word has, and how often
    it occurs. tell(k) is called when k more merges are done. Counts change only in words that hold the pair,
    so only their pairs are counted anew.

    What a merge makes is always new: no merge before it reached over the ends of that token's bytes, so equal
    bytes were joined in the same steps, by one pair.
    """
    words = [word.tolist() for word in np.split(ids, np.cumsum(lengths)[:-1])]
    counts: Counter[tuple[int, int]] = Counter()
    holders: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # pair → words that hold it, or did
    merges: list[tuple[int, int]] = []

    def count(w: int, weight: int) -> None:
        for pair in pairwise(words[w]):
            counts[pair] += weight
            holders[pair].add(w)
            if not counts[pair]:
                del counts[pair], holders[pair]

    for w, weight in enumerate(weights.tolist()):
        count(w, weight)
    while len(merges) < n and counts:
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[pair] < min_frequency:
            break
        for w in holders.pop(pair):
            weight = int(weights[w])
            count(w, -weight)
            words[w] = _joined(words[w], pair, 256 + len(merges))
            count(w, weight)
        merges.append(pair)
        tell(1)
    return merges


def _joined(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The word with the pair joined into new, from the left."""
    out: list[int] = []
    for i in word:
        out.append(i)
        if out[-2:] == list(pair):
            out[-2:] = [new]
    return out


def _bar(progress: bool, what: str, total: int | None, **options: Any) -> Any:
    """A bar in a terminal, on stderr."""
    from tqdm import tqdm  # late: a model needs none

    disable = None if progress else True  # None: where stderr is no terminal
    return tqdm(total=total, desc=what, disable=disable, dynamic_ncols=True, file=sys.stderr, **options)
