"""Names chosen by patterns, as a shell chooses files: "h.*.attn.*" is every name of every attention."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from ..errors import InputError, near

WILD = re.compile(r"[*?\[]")


class Patterns:
    """A set of names, those that fit one of some patterns.

    >>> "h.3.mlp.act" in Patterns(["h.*.act"])
    True
    """

    def __init__(self, given: Iterable[str] = ()) -> None:
        self.given = tuple(given)

    def __contains__(self, name: object) -> bool:
        return any(fnmatchcase(str(name), pattern) for pattern in self.given)

    def __bool__(self) -> bool:
        return bool(self.given)

    def below(self, name: str) -> bool:
        """Whether names that begin with name and a dot may be among them: False is certain, True is not."""
        start = f"{name}."
        heads = [WILD.split(pattern, maxsplit=1) for pattern in self.given]
        return any(head.startswith(start) or (bool(rest) and start.startswith(head)) for head, *rest in heads)


def expect_some(who: str, patterns: Sequence[str]) -> None:
    """Raise InputError for no pattern at all."""
    if not patterns:
        raise InputError(f"{who}: there is no pattern, expected at least one, such as 'h.*.attn.*'")


def matching(who: str, patterns: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """Those of names that fit one of the patterns, in the order of names.

    In a pattern * stands for any characters, dots too, ? for one, and [ab] for one of them.

    who: what a message begins with. InputError for no pattern at all, and for one that no name fits.

    >>> matching("keep", ["h.*.bias", "wte*"], ["wte.weight", "h.0.weight", "h.0.bias"])
    ('wte.weight', 'h.0.bias')
    """
    expect_some(who, patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            meant = near(pattern, names) or list(names)[:4]
            raise InputError(
                f"{who}: no name fits {pattern!r}, expected a pattern of names such as {', '.join(meant)}"
            )
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
