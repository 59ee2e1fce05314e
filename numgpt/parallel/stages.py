"""Stages of a pipeline: which blocks each has, so that the slowest is as fast as it can be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ..architecture.config import Config
from ..architecture.parameters import is_matrix, kinds, shapes
from ..errors import InputError

# Names of a model's steps outside its blocks, as transformer.py files them, before and after these.
BEGINNING = ("wte", "embed_scale", "wpe", "ln_emb", "drop")
ENDING = ("ln_f", "lm_head", "head_bias", "logit_scale", "softcap", "loss")


def block_costs(config: Config) -> list[int]:
    """Of each block, the multiplications and additions of a forward for one token of a whole window.

    A weight costs two, one of an expert as many as the share of tokens that it computes; scores and sums of
    attention cost 4 D for each head and visible position.
    """
    costs = []
    kind_of, sizes = kinds(config), shapes(config)
    for scope, kind in config.scopes().items():
        weights = 0
        for name in [n for n in sizes if n.startswith(scope) and is_matrix(n, sizes[n])]:
            size = math.prod(sizes[name])
            is_expert = kind_of[name] == "experts"
            weights += size * kind.n_expert_active // kind.n_expert if is_expert else size
        visible = min(config.block_size, kind.window or config.block_size)
        costs.append(2 * weights + 4 * visible * kind.n_head * kind.head_size)
    return costs


def head_cost(config: Config) -> int:
    """The same of the unembedding, which the last stage has besides its blocks; looking up ids costs none."""
    return 2 * config.n_embd * config.vocab_size


def split(config: Config, stages: int) -> list[range]:
    """The blocks of each stage, side by side: at least one each, and the costliest stage as cheap as can be.

    >>> split(Config(n_layer=8, n_embd=64, n_head=2, vocab_size=65), 4)
    [range(0, 2), range(2, 4), range(4, 6), range(6, 8)]
    >>> split(Config(), 2)  # GPT-2's unembedding costs as much as four blocks and a half
    [range(0, 8), range(8, 12)]
    """
    if stages > config.n_layer:
        raise InputError(
            f"pipeline: {stages} stages for {config.n_layer} blocks, expected at least a block for each"
            f" stage: give {config.n_layer} stages or fewer"
        )
    costs, last = block_costs(config), head_cost(config)
    low, high = max(costs), sum(costs) + last
    while low < high:
        middle = (low + high) // 2
        if _fits(costs, last, stages, middle):
            high = middle
        else:
            low = middle + 1
    return _dealt(costs, last, stages, high)


def _dealt(costs: Sequence[int], last: int, stages: int, most: int) -> list[range]:
    """Stages none of which is above a cost; each takes its share of what is left, as nearly as it can."""
    cut, begin = [], 0
    upto = [0, *itertools.accumulate(costs)]
    for left in reversed(range(1, stages)):
        fair = (upto[-1] - upto[begin] + last) / (left + 1)
        ends = range(begin + 1, len(costs) - left + 1)
        first = next(end for end in ends if _fits(costs[end:], last, left, most))
        distances = [
            (abs(upto[end] - upto[begin] - fair), end)
            for end in range(first, ends.stop)
            if upto[end] - upto[begin] <= most
        ]
        _, end = min(distances)
        cut.append(range(begin, end))
        begin = end
    return [*cut, range(begin, len(costs))]


def _fits(costs: Sequence[int], last: int, stages: int, most: int) -> bool:
    """Whether so many stages can have all blocks, at least one each, and none above a cost.

    Each takes what it can, as long as a block is left for each after it: who takes fewer leaves more to the
    others.
    """
    begin = 0
    for left in reversed(range(stages)):
        end, cost = begin, 0 if left else last
        while end < len(costs) - left and cost + costs[end] <= most:
            cost += costs[end]
            end += 1
        if end == begin:
            return False
        begin = end
    return begin == len(costs)


def owner(config: Config, stages: Sequence[range], parameter: str) -> int:
    """The stage whose parameter this is; a tied embedding is the first's, and the last has it besides."""
    if parameter.startswith("h."):
        block = int(parameter.split(".", 2)[1])
        return next(s for s, blocks in enumerate(stages) if block in blocks)
    return 0 if parameter.split(".")[0] in BEGINNING else len(stages) - 1


def names_of(config: Config, stages: Sequence[range], stage: int) -> list[str]:
    """The parameters of a stage, in the order of the whole model's."""
    is_last = stage == len(stages) - 1
    return [
        name
        for name in shapes(config)
        if owner(config, stages, name) == stage or (is_last and config.tied and name == "wte.weight")
    ]
