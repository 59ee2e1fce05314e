"""Layouts: how ranks are laid out, as data:2,tensor:2, and which of them work together on what."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from ..errors import InputError, did_you_mean
from .ranks import Ranks

# What a rank may be one of several in, from the outermost to the innermost: neighbours talk most.
KINDS = ("data", "pipeline", "experts", "sequence", "tensor")
PART = re.compile(r"(?P<kind>[a-z]+)(?::(?P<size>[0-9]{1,6}))?")
EXAMPLES = "data, tensor:2 or data:2,tensor:2"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How many ranks there are of each kind, 1 where a kind is not there.

    >>> Layout({"tensor": 2, "data": 4}).places(5)
    {'data': 2, 'tensor': 1}
    """

    sizes: Mapping[str, int]

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return math.prod(self.sizes.values())

    def of(self, kind: str) -> int:
        """How many ranks there are of a kind."""
        return self.sizes.get(kind, 1)

    def places(self, rank: int) -> dict[str, int]:
        """The number of a rank in each kind."""
        places = {}
        for kind in reversed(KINDS):  # the innermost moves fastest
            if kind in self.sizes:
                rank, places[kind] = divmod(rank, self.sizes[kind])
        return dict(reversed(places.items()))

    def group(self, ranks: Ranks, kind: str) -> Ranks:
        """The ranks that differ from this one in a kind alone. All ranks ask for it together."""
        others = {name: place for name, place in self.places(ranks.rank).items() if name != kind}
        number = 0
        for name in KINDS:
            number = number * self.of(name) + others.get(name, 0)
        return ranks.split(number)

    def __str__(self) -> str:
        return ",".join(f"{kind}:{self.sizes[kind]}" for kind in KINDS if kind in self.sizes)


def parsed(text: str, size: int) -> Layout:
    """The layout of a text such as data:2,tensor:2 on so many ranks; one kind may be without a number.

    >>> str(parsed("tensor:2,data", 8))
    'data:4,tensor:2'
    """
    sizes: dict[str, int] = {}
    for word in text.split(","):
        match = PART.fullmatch(word.strip())
        if match is None or match["kind"] not in KINDS:
            meant = did_you_mean(word.partition(":")[0].strip(), KINDS)
            raise InputError(
                f"parallel: {word!r} is no kind{meant}, expected {', '.join(KINDS)}, each with a number of"
                f" ranks: {EXAMPLES}"
            )
        if match["kind"] in sizes:
            raise InputError(f"parallel: {match['kind']} is there twice in {text!r}, expected it once")
        sizes[match["kind"]] = int(match["size"] or 0)
    if "tensor" in sizes and "sequence" in sizes:
        raise InputError(
            f"parallel: {text!r} has tensor and sequence, which split the same matrices, expected one of them"
        )
    return _filled(text, sizes, size)


def _filled(text: str, sizes: dict[str, int], size: int) -> Layout:
    """A layout whose missing number is what is left of the ranks."""
    given = math.prod(n for n in sizes.values() if n)
    open_kinds = [kind for kind, n in sizes.items() if not n]
    if len(open_kinds) > 1 or any(":0" in word for word in text.split(",")):
        raise InputError(
            f"parallel: {text!r} leaves the numbers of ranks open, expected one at most without a number:"
            f" {EXAMPLES}"
        )
    if size % given or (not open_kinds and size != given):
        wanted = f"{given} ranks" if not open_kinds else f"a multiple of {given} ranks"
        raise InputError(
            f"parallel: {text!r} asks for {wanted}, and {size} {'runs' if size == 1 else 'run'}, expected as"
            f" many: start it by mpiexec -n {given if not open_kinds else 2 * given} numgpt …"
        )
    for kind in open_kinds:
        sizes[kind] = size // given
    return Layout({kind: sizes[kind] for kind in KINDS if kind in sizes})
