"""Masks: which weights go, those with the least scores; and the parameters with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.additions import all_shapes, integers
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..errors import InputError

Array = NDArray[Any]
GONE = -1.0  # the score of what is masked already: below all others, so that it stays masked
PATTERN = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")


def parsed(pattern: str) -> tuple[int, int]:
    """(N, M) of "N:M", at most N of M weights that lie side by side are left; InputError for what is none."""
    found = PATTERN.fullmatch(pattern)
    n, m = map(int, found.groups()) if found else (0, 0)
    if not n < m:
        raise InputError(f"pruned: pattern is {pattern!r}, expected two numbers, the first less: 2:4")
    return n, m


def least(scores: Array, count: int) -> Array:
    """A mask (n,) of bytes, 0 at the count least of scores (n,); of equal scores the first go."""
    mask = np.ones(len(scores), np.uint8)
    if count == 0:
        return mask
    limit = np.partition(scores, count - 1)[count - 1]
    mask[scores < limit] = 0
    ties = np.flatnonzero(scores == limit)
    mask[ties[: count - (len(mask) - int(mask.sum()))]] = 0
    return mask


def by_share(scores: Mapping[str, Array], sparsity: float, within: str) -> dict[str, Array]:
    """Name of a weight -> its mask, with a share of them 0: of each matrix, or in the whole model.

    Experts that are stacked are matrices of their own.
    """
    if within == "model":
        flat = np.concatenate([s.reshape(-1) for s in scores.values()])
        counts = {"the model": _count(flat, sparsity)}
        _expect_some(counts, sparsity, {"the model": flat.size})
        whole = least(flat, counts["the model"])
        ends = np.cumsum([s.size for s in scores.values()])[:-1]
        return {name: m.reshape(scores[name].shape) for name, m in zip(scores, np.split(whole, ends))}
    matrices = {name: s.reshape(-1, s.shape[-2] * s.shape[-1]) for name, s in scores.items()}
    most = {name: max(_count(one, sparsity) for one in flat) for name, flat in matrices.items()}
    _expect_some(most, sparsity, {name: flat.shape[1] for name, flat in matrices.items()})
    return {name: _each_matrix(s, sparsity) for name, s in scores.items()}


def _expect_some(counts: Mapping[str, int], sparsity: float, sizes: Mapping[str, int]) -> None:
    """Raise InputError where a share that is rounded is none of all, or the whole of a matrix."""
    largest = max(sizes.values())
    if not any(counts.values()):
        raise InputError(
            f"pruned: sparsity is {sparsity:g}, which masks none of the {largest:,} weights of a matrix,"
            f" expected one at least: {1 / largest:.3g} or more"
        )
    for name, count in counts.items():
        if count == sizes[name]:
            raise InputError(
                f"pruned: sparsity is {sparsity:g}, which leaves none of the {count:,} weights of"
                f" {name.removesuffix('.weight')}, expected one at least: take less"
            )


def _each_matrix(scores: Array, sparsity: float) -> Array:
    """The mask of a matrix, or of several that are stacked."""
    flat = scores.reshape(-1, scores.shape[-2] * scores.shape[-1])
    return np.stack([least(s, _count(s, sparsity)) for s in flat]).reshape(scores.shape)


def _count(scores: Array, sparsity: float) -> int:
    """How many go: the share, and no less than have gone already."""
    return max(round(sparsity * scores.size), int((scores == GONE).sum()))


def by_pattern(scores: Mapping[str, Array], n: int, m: int) -> dict[str, Array]:
    """Name of a weight -> its mask, with at most n of each m inputs of an output left: the largest scores.

    Source: Mishra et al. 2021, 2:4 for the sparse products of GPUs.
    """
    found = {}
    for name, s in scores.items():
        *stacked, inputs, outputs = s.shape
        if inputs % m:
            raise InputError(
                f"pruned: pattern is {n}:{m}, expected {m} to divide the {inputs} inputs of"
                f" {name.removesuffix('.weight')}: leave it out, or choose another"
            )
        groups = s.reshape(*stacked, inputs // m, m, outputs)
        order = np.argsort(groups, axis=-2, kind="stable")
        mask = np.ones(groups.shape, np.uint8)
        np.put_along_axis(mask, order[..., : m - n, :], 0, axis=-2)
        found[name] = (mask * (groups != GONE)).astype(np.uint8).reshape(s.shape)
    return found


def with_masks(params: Flat, config: Config, additions: Sequence[Any], masks: Mapping[str, Array]) -> Flat:
    """Parameters with masks beside them, and 0 at what is masked; additions are those of the result."""
    kept = {name: masks[name.removesuffix("_mask")] for name in integers(config, additions)}
    flat = Flat(all_shapes(config, additions), params.dtype, integers=kept)
    for name in flat.shapes:
        flat[name] = params[name]
        if name in masks:
            flat[name][masks[name] == 0] = 0
    return flat


def without_masks(params: Flat, config: Config, additions: Sequence[Any]) -> Flat:
    """Parameters with 0 at what is masked, without the masks; additions are those of the result."""
    flat = Flat(all_shapes(config, additions), params.dtype)
    for name in flat.shapes:
        flat[name] = params[name]
        mask = params.get(f"{name}_mask")
        if mask is not None:
            flat[name][mask == 0] = 0
    return flat
