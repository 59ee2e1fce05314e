"""tiktoken's files: a line a token, its bytes in base64 and its rank.

Pattern and special tokens are kept elsewhere, so they have to be given.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from ..errors import InputError
from .bpe import BPE, checked_specials

LINE = re.compile(rb"((?=\S)[A-Za-z0-9+/]*={0,2}) +([0-9]{1,10})[ \r]*")


def is_tiktoken(data: bytes) -> bool:
    """Whether bytes begin with a line of such a file."""
    return LINE.fullmatch(data[:4096].partition(b"\n")[0]) is not None


def read(
    data: bytes, path: str | Path, pattern: str = "gpt2", specials: Mapping[str, int] | None = None
) -> BPE:
    """The BPE of a file's bytes: ids are ranks, and any two tokens may be joined that together are one.

    InputError names the line.
    """
    tokens: dict[int, bytes] = {}
    lines: dict[bytes, int] = {}  # token → the number of its line
    for n, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        token, rank = _entry(line, path, n)
        if not token:  # Whisper's multilingual file keeps the place of a special token so: "= 50256"
            continue
        if rank in tokens or token in lines:
            other = next(m for t, m in lines.items() if t == token or t == tokens.get(rank))
            shared = "rank" if rank in tokens else "token"
            raise InputError(
                f"{path}: lines {other} and {n} have one {shared}, expected each once: is the file damaged?"
            )
        tokens[rank], lines[token] = token, n
    last, taken = max(tokens, default=-1), set(checked_specials(specials or {}).values())
    hole = next((i for i in range(last) if i not in tokens and i not in taken), None)
    if hole is not None:
        raise InputError(
            f"{path}: no token has rank {hole}, expected all below {last}: is it a special token? Give"
            f' specials={{"<|endoftext|>": {hole}}}'
        )
    return BPE([tokens.get(i) for i in range(last + 1)], None, pattern, specials)


def _entry(line: bytes, path: str | Path, n: int) -> tuple[bytes, int]:
    """(bytes, rank) of a line."""
    match = LINE.fullmatch(line)
    try:
        if match:
            return base64.b64decode(match[1]), int(match[2])
    except binascii.Error:
        pass
    raise InputError(
        f"{path}: line {n} is {line[:60]!r}, expected the base64 of a token, a space and its rank"
    )


def write(tokenizer: BPE) -> bytes:
    """The bytes of a file for a BPE, without its pattern and special tokens.

    InputError where ranks alone would not give its ids.
    """
    if tokenizer.merges is not None:
        expect_ranked(tokenizer)
    tokens = ((i, token) for i, token in enumerate(tokenizer.tokens) if token is not None)
    return b"".join(b"%s %d\n" % (base64.b64encode(token), i) for i, token in tokens)


def expect_ranked(tokenizer: BPE) -> None:
    """Raise InputError unless a BPE gives the ids that it would give without its merges, its ids as ranks.

    It does where merges make tokens in the order of their ids, and each merge is what the lesser ones leave
    of its token (recover_merges). Then both join alike, by induction over the ranks. Before each rank the
    parts of a text are the same. A token's bytes lie there in the same two parts as when they stand alone,
    since nothing was joined over their ends, and no part is made after the whole. A pretoken that is a token
    is joined to it, so taking it whole makes no difference either.
    """
    try:
        merges = recover_merges(tokenizer)
    except InputError:
        merges = None
    if tokenizer.merges != merges:
        raise InputError(
            "export: the merges are not in the order of the ids, or make not every token, expected them as"
            " training does: choose the kind huggingface"
        )


def recover_merges(tokenizer: BPE) -> list[tuple[int, int]]:
    """The merges of a BPE whose ids are ranks: the two parts of each token that lesser ranks leave.

    InputError where there are not two, or where a part has a greater rank: then no list of pairs gives the
    same ids.
    """
    ids, merges = tokenizer.ids, []
    for rank, token in enumerate(tokenizer.tokens):
        if token is None or len(token) == 1:
            continue
        parts = _join_below(token, ids, rank)
        are_known = all(part in ids and (len(part) == 1 or ids[part] <= rank) for part in parts)
        if len(parts) != 2 or not are_known:
            raise InputError(
                f"export: token {rank}, {token!r}, is left in {len(parts)} parts by those of lesser rank,"
                " expected 2 that it joins: choose the kind numgpt or tiktoken"
            )
        merges.append((ids[parts[0]], ids[parts[1]]))
    return merges


def _join_below(token: bytes, ids: Mapping[bytes, int], rank: int) -> list[bytes]:
    """The parts of a token after all joins of a rank less than its own."""
    parts = [token[i : i + 1] for i in range(len(token))]
    ranks = [ids.get(a + b, rank) for a, b in pairwise(parts)]  # of each pair of neighbours
    while len(parts) > 2:
        least = min(ranks)
        if least >= rank:
            break
        i = ranks.index(least)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del ranks[i]
        for place in (i - 1, i):
            if 0 <= place < len(ranks):
                ranks[place] = ids.get(parts[place] + parts[place + 1], rank)
    return parts
