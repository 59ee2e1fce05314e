"""A BPE as text: its tokens as GPT-2's files spell bytes, with ids, and its merges as pairs of them. Special
tokens stand as they are.
"""

from ..errors import InputError
from .bpe import BPE, join
from .spelling import spell, unspell
from .tiktoken_file import recover_merges


def checked_vocabulary(vocab):
    """What a file gives as vocabulary; InputError unless it is {text: id} with an id of its own for each."""
    if not isinstance(vocab, dict) or not vocab:
        raise InputError("the vocabulary is no object of JSON with tokens, expected {token: id}")
    odd = next((text for text, i in vocab.items() if type(i) is not int or i < 0), None)
    if odd is not None:
        raise InputError(f"token {odd!r} has id {vocab[odd]!r}, expected an integer from 0")
    if len(set(vocab.values())) < len(vocab):
        seen = {}
        one, other = next((seen[i], text) for text, i in vocab.items() if seen.setdefault(i, text) != text)
        raise InputError(f"tokens {one!r} and {other!r} both have id {vocab[one]}, expected one each")
    return vocab


def assemble(vocab, merges, specials, pattern, whole):
    """The BPE of a vocabulary {text: id}, merges as pairs of texts, and special tokens {text: id}, which may
    be in the vocabulary too.
    """
    both = checked_vocabulary(vocab | specials)
    ordinary = {text: i for text, i in both.items() if text not in specials}
    last, taken = max(ordinary.values(), default=-1), set(both.values())
    hole = next((i for i in range(last) if i not in taken), None)  # found before there is room for the last
    if hole is not None:
        raise InputError(f"no token has id {hole}, expected one for each up to {last}")
    tokens = [None] * (last + 1)
    for text, i in ordinary.items():
        tokens[i] = unspell(text)
    unknown = next(
        ((n, part) for n, pair in enumerate(merges) for part in pair if part not in ordinary), None
    )
    if unknown is not None:
        n, part = unknown
        raise InputError(
            f"merge {n} joins {part!r}, expected a token of the"
            f" vocabulary{' that is not special' if part in specials else ''}"
        )
    return BPE(
        tokens, [(ordinary[left], ordinary[right]) for left, right in merges], pattern, specials, whole
    )


def spelled(tokenizer):
    """(vocabulary {text: id}, merges as pairs of texts) of a BPE; InputError where a special token looks like
    an ordinary one.
    """
    texts = [None if token is None else spell(token) for token in tokenizer.tokens]
    vocab = {text: i for i, text in enumerate(texts) if text is not None}
    both = next((text for text in tokenizer.specials if text in vocab), None)
    if both is not None:
        raise InputError(
            f"export: the special token {both!r} is spelled as token {vocab[both]} is, expected another text:"
            " choose the kind numgpt"
        )
    merges = recover_merges(tokenizer) if tokenizer.merges is None else tokenizer.merges
    vocab |= tokenizer.specials
    return dict(sorted(vocab.items(), key=lambda item: item[1])), [
        (texts[left], texts[right]) for left, right in merges
    ]


def expect_reached(tokenizer):
    """Raise InputError where a BPE takes a piece whole that its merges would not join, for a file that cannot
    say so.
    """
    if not tokenizer.whole or tokenizer.merges is None:  # without merges recover_merges has looked
        return
    for token, i in tokenizer.ids.items():
        if join(
            [tokenizer.ids.get(token[n : n + 1], -1) for n in range(len(token))], tokenizer.ranks
        ).tolist() != [i]:
            raise InputError(
                f"export: token {i}, {token!r}, is not what merges make of its bytes, expected that: choose"
                " the kind huggingface, which can say so"
            )
