"""Training of byte-pair encoding: the most frequent pair of neighbours becomes a token, again and again."""

import sys
from collections import Counter, defaultdict
from itertools import chain, pairwise

import numpy as np

from .. import engine
from ..errors import InputError
from .bpe import BPE
from .patterns import Pattern
from .spelling import ALPHABET, unspell
from .tokenizer import finder, utf8

BYTES = [unspell(c) for c in sorted(ALPHABET)]  # the tokens that are there before any merge, in GPT-2's order
BLOCK = 2**20  # characters that are cut into pieces at once
SMALL = 2**24  # symbols times merges up to which the specification is done before its twin is loaded
_IDS = np.argsort(np.frombuffer(b"".join(BYTES), np.uint8)).astype(np.int32)  # byte → its token


def train(texts, vocab_size, *, pattern="gpt2", specials=(), min_frequency=2, progress=False):
    """A byte-level BPE whose merges are learned from a text.

    As long as there are fewer than vocab_size tokens: count every pair of neighbours, join the most frequent
    one wherever it stands, and let what it makes be the next token. Of pairs that are as frequent, the one of
    least left id is taken, and of those the one of least right id. In a run "aaa" the pair "aa" counts twice,
    and is joined from the left. Pairs are counted within the pieces that the pattern cuts the text into, so
    that no token reaches over a cut. The merges are those of Hugging Face's BpeTrainer with the same pattern
    and min_frequency and initial_alphabet=ByteLevel.alphabet(), as long as no count reaches its 2³¹.

    texts: a str, or an iterable of str, the parts of one text, cut anywhere. vocab_size: how many tokens, in
    this order: the 256 bytes as in GPT-2's vocabulary, what the merges make, the specials. If sooner no pair
    occurs min_frequency times, they are fewer, as the tokenizer's vocab_size says. pattern: one of
    patterns.PATTERNS, or a regular expression. specials: texts of the special tokens; the text is cut where
    one stands, and no piece holds it. progress: whether a terminal shows a bar, on stderr.

    Memory is linear in the number of distinct pieces, not in the text; but a regular expression of one's own,
    of which nobody knows where it surely cuts, needs the whole text between two special tokens. InputError
    where the text is empty, or a size or a special token cannot be.

    Source: Gage 1994; Sennrich et al. 2016; on bytes, Radford et al. 2019.
    """
    specials, pattern = _checked(vocab_size, specials, min_frequency), Pattern(pattern)
    pieces = count_pieces(texts, pattern, specials, progress)
    if not pieces:
        raise InputError("train: the text is empty, expected one to learn merges from")
    merges = learn_merges(pieces, int(vocab_size) - len(BYTES) - len(specials), min_frequency, progress)
    tokens = list(BYTES)
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return BPE(tokens, merges, pattern.name, {text: i for i, text in enumerate(specials, len(tokens))})


def _checked(vocab_size, specials, min_frequency):
    """The special tokens as a list; InputError where one of the arguments cannot be."""
    specials = [specials] if isinstance(specials, str) else list(specials)
    for text in specials:
        if not isinstance(text, str) or not text or specials.count(text) > 1:
            what = "there twice" if text and isinstance(text, str) else "no text"
            raise InputError(
                f"train: {text!r} is {what} among the special tokens, expected texts, all different"
            )
    least = len(BYTES) + len(specials)
    for name, value, least, why in (
        ("vocab_size", vocab_size, least, f" for 256 bytes and {len(specials)} specials"),
        ("min_frequency", min_frequency, 1, ""),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(f"train: {name} is {value!r}, expected an integer of at least {least}{why}")
    return specials


def count_pieces(texts, pattern, specials=(), progress=False):
    """Piece, as bytes → how often the Pattern cuts it out of a text. Other arguments as of train."""
    texts, total = ([texts], _size(texts) if progress else None) if isinstance(texts, str) else (texts, None)
    counts = Counter()
    with _bar(progress, "counting", total, unit="B", unit_scale=True) as bar:
        for stretch in stretches(texts, specials, pattern):
            counts.update(
                pattern.split(stretch) if len(stretch) <= 2 * BLOCK else _one_by_one(stretch, pattern)
            )
            bar.update(_size(stretch) if progress else 0)
    pieces = Counter()
    for piece, count in counts.items():
        pieces[utf8(piece)] += (
            count  # two pieces may be the same bytes: é, and its bytes as surrogateescape shows them
        )
    del pieces[b""]
    return pieces


def _one_by_one(stretch, pattern):
    """Counter of the pieces, without a list of all."""
    counts = Counter(pattern.found(stretch))
    if sum(len(piece) * count for piece, count in counts.items()) != len(stretch):
        pattern.split(stretch)  # says what it drops
    return counts


def _size(text):
    return len(text.encode("utf-8", "surrogatepass"))


def stretches(texts, specials, pattern):
    """What stands between special tokens, in order, some of it in several stretches: the pieces of all are
    those of the whole.

    texts: parts of one text, cut anywhere. Where the Pattern is sure of no cut, what stands between two
    special tokens stays whole.
    """
    special = finder(specials) if specials else None
    longest = max(map(len, specials), default=0)
    waiting, size, enough = [], 0, BLOCK
    for block in chain(_blocks(texts), [None]):
        last = block is None
        if not last:
            waiting.append(block)
            size += len(block)
            if size < enough:
                continue
        text, place = "".join(waiting), 0
        known = (
            len(text) if last else len(text) - longest
        )  # a special token that begins up to here has its end here too
        for found in special.finditer(text) if special else ():
            if found.start() > known:
                break
            yield text[place : found.start()]
            place = found.end()
        if last:
            yield text[place:]
            return
        cut = pattern.safe_cut(text[place : max(place, known)])
        if cut:
            yield text[place : place + cut]
            place += cut
        waiting, size = [text[place:]], len(text) - place
        enough = max(BLOCK, 2 * size)  # where nothing cuts, so that a long wait takes linear time


def _blocks(texts):
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"train: a part of the text is of type {type(text).__name__}, expected str")
        yield from (text[i : i + BLOCK] for i in range(0, len(text), BLOCK))


def learn_merges(pieces, n, min_frequency=2, progress=False):
    """Up to n merges, pairs of ids, of pieces (bytes → count), by the specification or its twin, whichever is
    sooner done.
    """
    ids = _IDS[np.frombuffer(b"".join(pieces), np.uint8)]
    n, min_frequency = (
        min(n, len(ids)),
        min(min_frequency, 2**62),
    )  # no more joins than symbols, and no count beyond 64 bits
    lengths, weights = np.fromiter(map(len, pieces), np.int64), np.fromiter(pieces.values(), np.int64)
    run = learn if len(ids) * n <= SMALL else engine.host_twin(learn)
    with _bar(progress, "merging", n, unit="merge") as bar:
        return run(ids, lengths, weights, n, min_frequency, bar.update)


def learn(ids, lengths, weights, n, min_frequency, tell):
    """The merges of words, as a list of pairs of ids; the k-th, from 0, makes the id 256 + k.

        count(a, b) = Σ over words w of weights[w] · (how often b follows a in w)
        next merge  = argmax count, of equals the least (a, b); none if its count is below min_frequency

    ids (S,): the words, one after the other. lengths, weights (W,): how many ids each word has, and how often
    it occurs. tell(k) is called as k more merges are done. Only in words that hold the pair do counts change,
    so only their pairs are counted anew.

    What a merge makes is new: within a token no merge ever reached over its ends, so equal bytes were joined
    in the same steps, by one pair.
    """
    words, weights = [word.tolist() for word in np.split(ids, np.cumsum(lengths)[:-1])], weights.tolist()
    counts, where, merges = (
        Counter(),
        defaultdict(set),
        [],
    )  # where: pair → words that hold it, and some that did

    def count(w, weight):
        for pair in pairwise(words[w]):
            counts[pair] += weight
            where[pair].add(w)
            if not counts[pair]:
                del counts[pair], where[pair]

    for w, weight in enumerate(weights):
        count(w, weight)
    while len(merges) < n and counts:
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[pair] < min_frequency:
            break
        for w in where.pop(pair):
            count(w, -weights[w])
            words[w] = _joined(words[w], pair, 256 + len(merges))
            count(w, weights[w])
        merges.append(pair)
        tell(1)
    return merges


def _joined(word, pair, new):
    """The word with the pair joined into new, from the left."""
    out, ids = [], iter(word)
    for i in ids:
        out.append(i)
        if out[-2:] == list(pair):
            out[-2:] = [new]
    return out


def _bar(progress, what, total, **options):
    """A bar in a terminal, on stderr."""
    from tqdm import tqdm  # late: a model needs none

    return tqdm(
        total=total,
        desc=what,
        disable=None if progress else True,
        dynamic_ncols=True,
        file=sys.stderr,
        **options,
    )
