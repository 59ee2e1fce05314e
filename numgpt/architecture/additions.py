"""What a model may have besides its own parameters: adapters on its matrices, and a head for a task."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError
from ..ops.activations import ACTIVATIONS
from ..random import generator
from .config import Config
from .fields import check_fields, documented, expect, from_dict, setting, to_dict
from .parameters import STD, Flat, parts, shapes
from .patterns import matching
from .pruned import Pruned
from .quantized import Quantized

Shapes = dict[str, tuple[int, ...]]
LARGEST_RANK = 2**16


def matrices(config: Config) -> dict[str, tuple[int, int]]:
    """Name -> shape of the matrices that an adapter may stand beside."""
    kinds = ("attention", "feed-forward", "routers")
    found = [part for part in parts(config) if part.kind in kinds and len(part.shape) == 2]
    return {part.name: (part.shape[0], part.shape[1]) for part in found}


def part_widths(config: Config, name: str, width: int) -> tuple[int, ...]:
    """The widths of what a matrix holds side by side: queries, keys and values, gate and value, or one."""
    kind = config.scopes()[".".join(name.split(".")[:2]) + "."]
    if name.endswith(".c_attn"):
        queries, keys = kind.n_head * kind.head_size, kind.kv_heads * kind.head_size
        return queries, keys, keys
    is_gated = name.endswith(".c_fc") and ACTIVATIONS[kind.activation].gated
    return (width // 2, width // 2) if is_gated else (width,)


class Addition(Protocol):
    """What adds parameters to a model; it knows their shapes and their first values."""

    def shapes(self, config: Config) -> Shapes:
        """Name -> shape of every parameter that it adds."""

    def first_value(self, name: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
        """Where a parameter starts, in float64."""


@documented
@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank adapters: beside a matrix W stands a product of two narrow ones, which alone are trained.

        y = x W + b + s (x A) B        A (I, R), B (R, O), s = alpha / R

    A starts at random and B at 0, so a model starts as what it was. Where both are 0 neither is ever moved.

    c_attn holds queries, keys and values side by side, and a gated c_fc gate and value: by_part gives each
    its own A, as adapters of PEFT have it where these are matrices of their own.

    Source: Hu et al. 2021; rsLoRA's s = alpha / √R is of Kalajdzievski 2023.

    Examples
    --------
    >>> from numgpt import Config
    >>> config = Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)
    >>> LoRA(rank=2, targets=("h.*.attn.c_attn",)).shapes(config)
    {'h.0.attn.c_attn.lora_a': (4, 2), 'h.0.attn.c_attn.lora_b': (2, 12)}
    """

    rank: int = setting(8, "R, the width between the two matrices")
    alpha: float = setting(16.0, "the adapter's weight, which is divided by R")
    targets: tuple[str, ...] = setting(
        ("h.*.attn.*", "h.*.mlp.*"), "patterns of the matrices that are adapted"
    )
    rslora: bool = setting(False, "divide alpha by √R instead of R")
    by_part: bool = setting(
        False, "whether queries, keys and values have an A each, and gate and value", late=True
    )

    def __post_init__(self) -> None:
        check_fields(self)
        expect(self, "rank", 1 <= self.rank <= LARGEST_RANK, f"1 to {LARGEST_RANK:,}")
        expect(self, "targets", len(self.targets) > 0, "at least one pattern, such as 'h.*.attn.c_attn'")

    @property
    def scaling(self) -> float:
        """s, by which what the adapter gives is multiplied."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @checked
    def adapted(self, config: Config) -> dict[str, tuple[int, int]]:
        """Name -> shape of the matrices that have an adapter."""
        found = matrices(config)
        return {name: found[name] for name in matching("LoRA: targets", self.targets, found)}

    @checked
    def widths(self, config: Config) -> dict[str, tuple[int, ...]]:
        """Name -> the widths of the maps side by side that have an A each, of each matrix with an adapter."""
        return {
            name: part_widths(config, name, width) if self.by_part else (width,)
            for name, (_, width) in self.adapted(config).items()
        }

    @checked
    def shapes(self, config: Config) -> Shapes:
        """Name -> shape of A and B beside each matrix."""
        named: Shapes = {}
        widths = self.widths(config)
        for name, (i, o) in self.adapted(config).items():
            named[f"{name}.lora_a"] = (i, self.rank * len(widths[name]))
            named[f"{name}.lora_b"] = (self.rank, o)
        return named

    def first_value(self, name: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
        """A uniform in ±1/√I, as PEFT draws it, and B zero: the two as zeros would have no gradient ever."""
        if name.endswith("lora_b"):
            return np.zeros(shape)
        bound = 1 / math.sqrt(shape[0])
        return generator(seed, "init", name).uniform(-bound, bound, shape)


POOLS = ("last", "mean", "none")
TASKS = ("classes", "numbers", "reward", "value")


@documented
@dataclasses.dataclass(frozen=True)
class Head:
    """A head for a task: scores from what the last norm gives, in the place of the logits.

        scores = h W + b        h of the last token, or the mean over all; or every token's

    Source: Radford et al. 2018 (classes); Ziegler et al. 2019 (reward and value).

    Examples
    --------
    >>> from numgpt import Config
    >>> Head(labels=("good", "bad")).shapes(Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    {'score.weight': (4, 2), 'score.bias': (2,)}
    """

    task: str = setting("classes", "what the scores are", TASKS)
    labels: tuple[str, ...] = setting((), "the names of the classes, or of the numbers")
    pool: str = setting(
        "last", "of which tokens: the last, the mean of all, or none: each has its own", POOLS
    )
    bias: bool = setting(True, "whether there is a b")

    def __post_init__(self) -> None:
        check_fields(self)
        least = {"classes": 2, "numbers": 1}.get(self.task, 0)
        expect(self, "labels", len(self.labels) >= least, f"at least {least} for {self.task}")
        expect(self, "labels", len(set(self.labels)) == len(self.labels), "names that differ")
        if self.task in ("reward", "value"):
            expect(self, "labels", not self.labels, f"none for a {self.task}, which is one number")
        expect(
            self, "pool", (self.pool == "none") == (self.task == "value"), "none for a value, and only there"
        )

    @property
    def width(self) -> int:
        """How many scores there are."""
        return max(1, len(self.labels))

    @checked
    def shapes(self, config: Config) -> Shapes:
        """Name -> shape of the head's weight and bias."""
        named: Shapes = {"score.weight": (config.n_embd, self.width)}
        return named | ({"score.bias": (self.width,)} if self.bias else {})

    def first_value(self, name: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
        """Weights of a reward with variance 1/(C + 1), of a value 0 (Ziegler et al. 2019); else GPT-2's."""
        if name.endswith("bias") or self.task == "value":
            return np.zeros(shape)
        std = 1 / math.sqrt(shape[0] + 1) if self.task == "reward" else STD
        return generator(seed, "init", name).standard_normal(shape) * std


KINDS: Mapping[str, Any] = {"lora": LoRA, "head": Head, "quantized": Quantized, "pruned": Pruned}


def quantized_by(additions: Sequence[Any]) -> Quantized | None:
    """How a model is quantized; None where it is not."""
    return next((addition for addition in additions if isinstance(addition, Quantized)), None)


def pruned_by(additions: Sequence[Any]) -> Pruned | None:
    """Which matrices of a model have masks; None where none has."""
    return next((addition for addition in additions if isinstance(addition, Pruned)), None)


def integers(config: Config, additions: Sequence[Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (type, shape) of the integers that a model has beside its floats."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for addition in additions:
        if isinstance(addition, Quantized | Pruned):
            found |= addition.integers(config)
    return found


def all_shapes(config: Config, additions: Sequence[Addition]) -> Shapes:
    """Name -> shape of a model's own parameters and those of its additions; InputError where two have one.

    A quantized model has scales instead of what was rounded; its integers are no part of these.
    """
    named = shapes(config)
    if quantized_by(additions) is not None and pruned_by(additions) is not None:
        raise InputError(
            "additions: has Quantized and Pruned, expected one of them: what is rounded needs no masks, for 0"
            " is rounded to 0"
        )
    if sum(isinstance(addition, Pruned) for addition in additions) > 1:
        raise InputError("additions: Pruned is there twice, expected it once")
    for addition in additions:
        own = addition.shapes(config)
        if isinstance(addition, Quantized):
            named = _in_place(named, own, addition.replaced(config))
            continue
        twice = sorted({*own} & {*named})
        if twice:
            raise InputError(
                f"{type(addition).__name__}: there is a {twice[0]} already, expected one of each: merge the"
                " adapter, or leave out what is there"
            )
        named |= own
    return named


def _in_place(named: Shapes, scales: Shapes, replaced: Sequence[str]) -> Shapes:
    """Names with scales and zeros in the place of the weights that they belong to."""
    if any(name not in named for name in replaced):
        raise InputError("additions: Quantized is there twice, expected it once")
    found: Shapes = {}
    for name, shape in named.items():
        own = [f"{name}_scale", f"{name}_zero"] if name in replaced else []
        found |= {part: scales[part] for part in own if part in scales} if own else {name: shape}
    return found


def extended(params: Flat, config: Config, additions: Sequence[Addition], seed: int) -> Flat:
    """Parameters with those of additions, which start at their first values; what params has is copied."""
    kept = {name: params[name].copy() for name in integers(config, additions)}
    flat = Flat(all_shapes(config, additions), params.dtype, like=params.flat, integers=kept)
    for addition in additions:
        for name, shape in addition.shapes(config).items():
            if name not in params:
                flat[name] = addition.first_value(name, shape, seed).astype(params.dtype)
    for name in params.shapes:
        if name in flat:
            flat[name] = params[name]
    return flat


def as_json(additions: Sequence[Any]) -> list[dict[str, Any]]:
    """What a file holds of additions; from_json reads it."""
    names = {cls: name for name, cls in KINDS.items()}
    return [{"kind": names[type(a)], **to_dict(a)} for a in additions]


def from_json(stored: Any) -> tuple[Any, ...]:
    """Additions from what a file holds; InputError for what is none."""
    if not isinstance(stored, list):
        raise InputError(f"additions: is {type(stored).__name__}, expected a list")
    return tuple(map(_from_json, stored))


def _from_json(stored: Any) -> Any:
    kind = stored.get("kind") if isinstance(stored, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"additions: kind is {str(kind)[:40]!r}, expected one of {', '.join(KINDS)}")
    return from_dict(KINDS[kind], {name: value for name, value in stored.items() if name != "kind"})
