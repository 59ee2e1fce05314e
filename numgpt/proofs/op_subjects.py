"""Subject: a pair at some arrays, which the laws are held to; and the subjects that ops are."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import engine
from ..gradcheck import Finding, GradientError, findings
from ..gradcheck.pair import Backward, Forward
from ..layers.layer import Layer
from ..layers.record import Record
from ..ops import Op

AGAIN = "again before its backward"  # a variant: called once more before the backward of the first call
MISFIT = "one gradient per array"  # the law of a backward that does not even fit its forward
KindOfRecord = type[Record]
OnRecord = Callable[[KindOfRecord, Sequence[Any]], tuple[Record, Layer, Sequence[Any]]]


@dataclass(frozen=True)
class Subject:
    """A pair at some arrays: what findings() takes.

    op: the op that it is. on_record: of a layer, what gives (the Record, the layer, its inputs) for a kind of
    Record and the arrays.
    """

    name: str
    forward: Forward
    backward: Backward
    arrays: tuple[Any, ...]
    options: dict[str, Any]
    op: Op | None = None
    on_record: OnRecord | None = None

    def __post_init__(self) -> None:
        """Have the pair run where the engine in use computes, and take and give arrays of the host."""
        object.__setattr__(self, "forward", _forward_there(self.forward))
        object.__setattr__(self, "backward", _backward_there(self.backward))

    def findings(self, seed: int = 0) -> Iterator[Finding]:
        """The laws' findings; a backward that does not even fit its forward is a finding too."""
        try:
            yield from findings(self.forward, self.backward, *self.arrays, seed=seed, options=self.options)
        except GradientError as error:
            yield Finding(MISFIT, math.inf, 0.0, str(error))


def _forward_there(forward: Forward) -> Forward:
    @functools.wraps(forward, assigned=(), updated=("__dict__",))  # with its constants
    def there(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        if not engine.is_cupy():
            return forward(*arrays, **options)
        moved = engine.here(*arrays, *options.values())  # all or none: a mask stays with longdouble arrays
        y, saved = forward(*moved[: len(arrays)], **dict(zip(options, moved[len(arrays) :])))
        return engine.home(y), saved

    return there


def _backward_there(backward: Backward) -> Backward:
    def there(dy: Any, saved: Any) -> Any:
        if not engine.is_cupy():
            return backward(dy, saved)
        (dy,) = engine.here(dy)
        return tuple(engine.home(grad) for grad in backward(dy, saved))

    return there


def op_subjects(
    op: Op, seed: int, sizes: Mapping[str, int] | None = None, lead: tuple[int, ...] = (2, 3)
) -> Iterator[Subject]:
    """An op as it is, in its variants, without each optional array, and with noise."""
    rng = np.random.default_rng([seed, 1])
    letters = sorted({c for c in op.line if c.isupper()})
    sizes = op.fitted(sizes or {c: int(rng.integers(2, 6)) for c in letters})
    arrays, options = op.draw(rng, sizes, lead)

    def forward(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        with engine.session("float64"):
            return engine.forward(op, arrays)(*arrays, **options)

    vars(forward)["constants"] = op.constants

    def backward(dy: Any, saved: Any) -> Any:
        with engine.session("float64"):
            return engine.backward(op, dy)(dy, saved)

    def subject(variant: str, arrays: Sequence[Any], more: Mapping[str, Any]) -> Subject:
        name = f"{op.name} ({variant})" if variant else op.name
        return Subject(name, forward, backward, tuple(arrays), {**options, **more}, op)

    yield subject("", arrays, {})

    def interrupted(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        """The forward, and another one before its backward: what is kept outside saved is overwritten."""
        result = forward(*arrays, **options)
        forward(*(a if a is None or a.dtype.kind in "iu" else 0.5 * a for a in arrays), **options)
        return result

    vars(interrupted)["constants"] = op.constants
    yield dataclasses.replace(subject(AGAIN, arrays, {}), forward=interrupted)
    for i, argument in enumerate(op.arguments):
        if argument.optional:
            yield subject(f"no {argument.name}", [None if j == i else a for j, a in enumerate(arrays)], {})
    for variant, more in op.variants.items():
        yield subject(variant, arrays, more(rng, sizes) if callable(more) else more)
    if op.line == "... -> ..." and not op.noise:
        # where an activation and its slope are all but 0; and where exp overflows, in long double too
        yield subject("far left", [0.1 * a - 10 for a in arrays], {})
        yield subject("out of sight", [0.1 * a - 200 for a in arrays], {})
    if op.line == "...(2F) -> ...F":
        yield subject("held back", [6.0 * a for a in arrays], {})  # beyond what clamps let through
    if op.noise:
        yield subject("dropout", arrays, {"keep": rng.random(op.noise(*arrays, **options)) < 0.7, "p": 0.3})
