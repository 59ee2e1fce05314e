"""From a Trace to its page; and the ways to it that a Trace itself has: its method explore, its display."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from html import escape
from typing import Annotated, Any

import numpy as np
from numpy.typing import DTypeLike

from ..argument_kinds import ELSEWHERE
from ..arguments import Count, checked, checked_as
from ..errors import InputError
from ..traces import Trace
from ..traces.trace import expect_whole
from . import packing, selecting
from .page import Page, page_of

StrPath = str | os.PathLike[str]
DType = Annotated[DTypeLike | None, ELSEWHERE]
MEGABYTE = 1e6


@checked
def explore(
    trace: Trace,
    path: StrPath | None = None,
    *,
    title: str | None = None,
    full: bool = False,
    dtype: DType = None,
    blocks: Sequence[Count] | None = None,
    beside: Trace | None = None,
) -> Page:
    """One page of HTML that shows all of a trace: values, gradients, what made them, how exact they are.

    The page needs no other file and asks no network.

    Parameters
    ----------
    trace : Trace
    path : path, optional
        Where to write the page, whole or not at all.
    title : str, optional
        The text of the tokens unless given.
    full : bool, default False
        Write a page of more than 32 MB, too.
    dtype : "float32" or "float64", optional
        Of the numbers on the page; each array's own unless given.
    blocks : sequence of int, optional
        Blocks of which a large trace keeps every number; of the other large arrays it keeps the norm and the
        largest entries. All unless given.
    beside : Trace, optional
        Another trace to compare with, such as that of another checkpoint.

    Returns
    -------
    Page
        In a notebook it displays itself.

    Raises
    ------
    InputError
        For a page of more than 32 MB, for blocks that the trace does not have, and for arrays that do not fit
        each other, or are not of real numbers.

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> page = numgpt.pages.explore(model.record([0, 1], [1, 2]).trace(), title="two tokens")
    >>> page.title, page.html[:15]
    ('two tokens', '<!doctype html>')
    """
    stored = _stored(dtype)
    for each in (trace, beside):
        if each is not None:
            _expect_shown(each)
    title = packing.title_of(trace) if title is None else title
    limit = None if full else selecting.MOST
    data = packing.packed(trace, title, packing.Store(stored, limit), blocks)
    data["beside"] = None
    if beside is not None:
        other = packing.Store(stored, limit)
        data["beside"] = packing.packed(beside, packing.title_of(beside), other, blocks)
    page = page_of(data, title)
    if limit is not None and page.size > limit:
        raise InputError(packing.too_large(limit))
    if page.size > selecting.WARNED:
        warnings.warn(
            f"explore: the page has {page.size / MEGABYTE:.0f} MB, which takes a browser a while to open:"
            " fewer blocks, float32 or a shorter prompt make it smaller",
            stacklevel=3,
        )
    if path is not None:
        page.save(path)
    return page


def _expect_shown(trace: Trace) -> None:
    """Raise InputError unless there is something to show, arrays of real numbers that fit each other."""
    if not trace.names:
        raise InputError("explore: the trace is empty, expected at least one value to show")
    for name, array in (*trace.value.items(), *trace.grad.items()):
        if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind not in "biuf":
            kind = getattr(array, "dtype", type(array).__name__)
            raise InputError(f"explore: the trace has {name!r} of {kind}, expected an array of real numbers")
    expect_whole("explore", trace)


def _stored(dtype: Any) -> np.dtype[Any] | None:
    """The dtype of the numbers on the page; None for each array's own."""
    if dtype is None:
        return None
    try:
        stored = np.dtype(dtype)
    except Exception:  # whatever NumPy says of what is none
        stored = np.dtype("O")
    if stored not in (np.float32, np.float64):
        raise InputError(f"explore: dtype is {dtype!r}, expected 'float32' or 'float64'")
    return stored.newbyteorder("<")


# What a Trace has besides, once this room is there.


@checked_as("Trace.explore")
def _of_trace(
    self: Trace,
    path: StrPath | None = None,
    *,
    title: str | None = None,
    full: bool = False,
    dtype: DType = None,
    blocks: Sequence[Count] | None = None,
    beside: Trace | None = None,
) -> Page:
    """The page of numgpt.pages.explore, which says what each argument is.

    Parameters
    ----------
    path, title, full, dtype, blocks, beside
        As there.
    """
    return explore(self, path, title=title, full=full, dtype=dtype, blocks=blocks, beside=beside)


def _display(self: Trace) -> str:
    """A trace as a notebook shows it: its page, or where that is large, its table."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return explore(self)._repr_html_()
    except (InputError, UserWarning):
        return (
            f"<pre>{escape(repr(self.table()))}</pre><p>trace.explore('page.html') writes it as a page.</p>"
        )


for _name, _method in {"explore": _of_trace, "_repr_html_": _display}.items():
    setattr(Trace, _name, _method)
