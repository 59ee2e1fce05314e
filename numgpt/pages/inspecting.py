"""Pages of attention and of patches: a grid of heads beside the text, and a map that says what it shows."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import Count, checked
from ..errors import InputError
from ..interpretability import Attention, Patching
from ..tokenizers import Tokenizer
from . import packing, selecting
from .page import Page, Parts, assembled

StrPath = str | os.PathLike[str]
STYLES = ("page.css", "inspect.css")
STRINGS = "inspect.en.json"
ATTENTION = Parts("inspect.html", ("dom.js", "inspect.js", "attention.js"), STYLES, STRINGS)
PATCHING = Parts("inspect.html", ("dom.js", "inspect.js", "patching.js"), STYLES, STRINGS)


@checked
def attention(
    found: Attention,
    path: StrPath | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    title: str | None = None,
    layers: Sequence[Count] | None = None,
    heads: Sequence[Count] | None = None,
) -> Page:
    """One page with the attention of every head: choose a head, point at a token, see where it reads from.

    The page needs no other file and asks no network.

    Parameters
    ----------
    found : Attention
        Of numgpt.interpretability.attention_maps; the first prompt is shown.
    path : path, optional
        Where to write the page, whole or not at all.
    tokenizer : Tokenizer, optional
        Whose texts tokens have; their ids unless given.
    title : str, optional
        The text of the tokens unless given.
    layers, heads : sequence of int, optional
        Those on the page; all unless given.

    Returns
    -------
    Page

    Raises
    ------
    InputError
        For a page of more than 32 MB, and where there is no such layer or head.
    """
    most = max(P.shape[1] for P in found.maps)
    chosen_layers = _chosen("layers", layers, len(found.maps))
    chosen_heads = _chosen("heads", heads, most)
    texts = _texts(found.ids[0], tokenizer)
    maps = []
    for n in chosen_layers:
        P = found.maps[n][0]
        there = [head for head in chosen_heads if head < len(P)]
        maps.append({"layer": n, "heads": there, "data": _packed(P[there])})
    title = _title(texts, tokenizer) if title is None else title
    data = {"title": title, "tokens": texts, "heads": chosen_heads, "maps": maps}
    return _written("attention", ATTENTION, data, path)


@checked
def patching(
    found: Patching,
    path: StrPath | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    title: str | None = None,
) -> Page:
    """One page with a map of patches: point at a cell, or walk there by keys, and read what it brings back.

    Parameters
    ----------
    found : Patching
        Of activation_patching or attribution_patching.
    path, tokenizer, title
        As in attention.

    Returns
    -------
    Page
    """
    texts = _texts(found.ids[0], tokenizer)
    share = found.share if found.share.ndim > 1 else found.share[:, None]
    title = _title(texts, tokenizer) if title is None else title
    data = {
        "title": title,
        "at": found.at,
        "axes": list(found.axes),
        "shape": list(share.shape),
        "share": _packed(share),
        "clean": found.clean,
        "corrupted": found.corrupted,
        "tokens": texts,
    }
    return _written("patching", PATCHING, data, path)


def _written(who: str, parts: Parts, data: dict[str, Any], path: StrPath | None) -> Page:
    """The page, and its file where it has one; InputError for one that is too large."""
    page = assembled(parts, data, data["title"])
    if page.size > selecting.MOST:
        raise InputError(
            f"{who}: the page would have {page.size / 1e6:.0f} MB, expected at most"
            f" {selecting.MOST / 1e6:.0f}: choose some layers and heads, or a shorter prompt"
        )
    if path is not None:
        page.save(path)
    return page


def _packed(array: NDArray[Any]) -> str:
    """Numbers as base64 of little-endian floats, in which seven digits are exact."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def _chosen(what: str, asked: Sequence[int] | None, n: int) -> list[int]:
    """Those that were asked for, or all; InputError where one is not there."""
    numbers = list(range(n)) if asked is None else list(asked)
    missing = [number for number in numbers if number >= n]
    if missing or not numbers:
        given = f"has {missing[0]}" if missing else "is empty"
        raise InputError(f"attention: {what} {given}, expected some of 0 to {n - 1}")
    return numbers


def _texts(ids: NDArray[Any], tokenizer: Tokenizer | None) -> list[str]:
    """The texts of tokens; their numbers where there is none."""
    known = 0 if tokenizer is None else tokenizer.vocab_size
    return [tokenizer.decode([int(i)]) if tokenizer and int(i) < known else str(int(i)) for i in ids]


def _title(texts: Sequence[str], tokenizer: Tokenizer | None) -> str:
    return packing.shortened(("" if tokenizer is not None else " ").join(texts))
