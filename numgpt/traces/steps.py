"""What a Trace is made of besides arrays: steps, the text of ops, differences, another program's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..ops.cost import Cost


class OpText(NamedTuple):
    """What is written of an op: its line, and the equations of its forward and its backward."""

    line: str = ""
    forward: str = ""
    backward: str = ""


class Step(NamedTuple):
    """What made one value.

    op: the op's name, or a layer's. reads: the names of its inputs. parameters: of those that it uses.
    backward_reads: names of values and parameters that its backward needs, besides the gradient of the value.
    backward_writes: names whose gradients it gives. options: such as n_head,
    and of a mask of dropout what it is drawn from: p, seed and the words of the generator. cost: None for a
    layer, whose ops have theirs.
    """

    op: str
    reads: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    backward_reads: tuple[str, ...] = ()
    backward_writes: tuple[str, ...] = ()
    options: Mapping[str, Any] = {}
    cost: Cost | None = None


@dataclass(frozen=True)
class Difference:
    """A finite difference of the loss beside the gradient of one entry: (loss(x + h) − loss(x − h)) / 2h."""

    name: str
    index: tuple[int, ...]
    h: float
    difference: float
    gradient: float

    @property
    def distance(self) -> float:
        """How far the difference is from the gradient."""
        return abs(self.difference - self.gradient)

    def __str__(self) -> str:
        place = f"{self.name}{list(self.index)}"
        numbers = f"gradient {self.gradient:.12g}, difference {self.difference:.12g}"
        return f"{place}: {numbers}, {self.distance:.1e} apart at h = {self.h:.1e}"


class Reference(NamedTuple):
    """The numbers of another program: its name, values by name, gradients by name."""

    source: str
    value: Mapping[str, Any]
    grad: Mapping[str, Any] = {}
