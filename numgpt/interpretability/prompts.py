"""Prompts of experiments: rows of as many tokens, pairs that can be patched, and answers of one token."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ..argument_kinds import Range, as_array
from ..arguments import Ids, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..model.prompts import ids_of
from ..ops.op import check_ids

Array = NDArray[Any]
Few = Annotated[int, Range("from 1 to 1,024", lambda n: 1 <= n <= 1024)]  # of what takes time or memory each


def token_rows(who: str, model: GPT, prompts: Any, negative: bool = False) -> NDArray[np.int64]:
    """One prompt, or several of as many tokens, as ids (N, T).

    prompts: a text or its ids (T,), or a sequence of them; negative: whether ids may be negative.
    """
    given = each(prompts)
    rows = [ids_of(who, model, prompt) for prompt in given]
    for row in rows:
        check_ids(who, row, model.config.vocab_size, negative=negative)
    lengths = [len(row) for row in rows]
    other = next((n for n, length in enumerate(lengths) if length != lengths[0]), None)
    if other is not None:
        raise InputError(
            f"{who}: prompt 0 has {lengths[0]} tokens, prompt {other} has {lengths[other]}, expected as many"
            " in each, for a place is to mean the same in all"
        )
    return np.stack(rows).astype(np.int64)


def each(prompts: Any) -> list[Any]:
    """Several prompts as a list, one as a list of it."""
    if isinstance(prompts, np.ndarray) and prompts.ndim == 2 and len(prompts):
        return list(prompts)
    is_list = isinstance(prompts, list | tuple) and len(prompts) > 0
    if is_list and all(isinstance(p, str | list | tuple) or np.ndim(p) > 0 for p in prompts):
        return list(prompts)
    return [prompts]


def pairs_of(
    who: str, model: GPT, clean: Any, corrupted: Any, align: bool = False
) -> tuple[Array, Array, Array]:
    """Clean and corrupted prompts (N, T) and (N, S), and for each corrupted position the clean one, or −1."""
    right = token_rows(f"{who}: clean", model, clean)
    wrong = token_rows(f"{who}: corrupted", model, corrupted)
    if len(right) != len(wrong):
        raise InputError(
            f"{who}: {len(right)} clean prompts and {len(wrong)} corrupted ones, expected pairs of them"
        )
    if align:
        return right, wrong, np.stack([aligned(*pair) for pair in zip(right, wrong)])
    if right.shape != wrong.shape:
        T, S = right.shape[1], wrong.shape[1]
        place = next((t for t, (a, b) in enumerate(zip(right[0], wrong[0])) if a != b), min(T, S))
        raise InputError(
            f"{who}: clean has {T} tokens and corrupted {S}, expected as many: they part at token {place},"
            f" {_shown(model, right[0], place)} beside {_shown(model, wrong[0], place)}; give align=True to"
            " patch only the tokens that correspond"
        )
    return right, wrong, np.broadcast_to(np.arange(right.shape[1]), right.shape)


@checked
def aligned(clean: Ids, corrupted: Ids) -> NDArray[np.int64]:
    """For each token of a corrupted prompt the place of the clean token that it corresponds to, or −1.

    Equal runs of tokens correspond. Between two of them a stretch of as many tokens corresponds one by one,
    and of stretches of different length the ends do, because a model that has read a name has it at the
    name's last token.

    Parameters
    ----------
    clean : integers (T,)
    corrupted : integers (S,)

    Returns
    -------
    integers (S,)

    Examples
    --------
    One token, 3, became two, 8 and 9; the second of them stands for it:

    >>> aligned([1, 2, 3, 4], [1, 2, 8, 9, 4]).tolist()
    [0, 1, -1, 2, 3]
    """
    rows = []
    for name, given in (("clean", clean), ("corrupted", corrupted)):
        ids = as_array(f"aligned: {name}", given, "integers (T,)")
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
            raise InputError(f"aligned: {name} has shape {ids.shape}, expected integers (T,), one or more")
        rows.append(ids.tolist())
    places = np.full(len(rows[1]), -1, np.int64)
    for _, i, end, j, last in difflib.SequenceMatcher(None, rows[0], rows[1], autojunk=False).get_opcodes():
        n = min(end - i, last - j)
        places[last - n : last] = np.arange(end - n, end)
    return places


def _shown(model: GPT, ids: Array, place: int) -> str:
    """A token in a message: its text, or its id where there is no tokenizer."""
    if place >= len(ids):
        return "the end"
    return token_text(model, int(ids[place]))


def token_text(model: GPT, token: int) -> str:
    """The text of a token in quotes, or its id where there is no tokenizer that has it."""
    tokenizer = model.tokenizer
    if tokenizer is None or token >= tokenizer.vocab_size or tokenizer.pieces[token] is None:
        return str(token)
    return repr(tokenizer.decode([token]))


def answer_ids(who: str, model: GPT, answers: Any) -> tuple[int, ...]:
    """An answer, or one for each text, as ids: each a text of one token, or an id."""
    is_list = isinstance(answers, list | tuple) or (isinstance(answers, np.ndarray) and answers.ndim == 1)
    given = list(answers) if is_list else [answers]
    if not given:
        raise InputError(f"{who}: there is no answer, expected a text of one token, or its id")
    return tuple(_answer(who, model, answer) for answer in given)


def _answer(who: str, model: GPT, answer: Any) -> int:
    if isinstance(answer, str):
        ids = ids_of(f"{who}: answer {answer!r}", model, answer)
        if len(ids) != 1:
            parts = ", ".join(token_text(model, int(i)) for i in ids[:6])
            raise InputError(
                f"{who}: the answer {answer!r} is {len(ids)} tokens ({parts}), expected one: choose another,"
                " or give the id of its first"
            )
        return int(ids[0])
    V = model.config.vocab_size
    if isinstance(answer, bool) or not isinstance(answer, int | np.integer) or not 0 <= answer < V:
        raise InputError(
            f"{who}: an answer is {answer!r}, expected a text of one token, or an id below {V:,}"
        )
    return int(answer)
