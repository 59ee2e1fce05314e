"""The one exception for input that cannot be used: what is, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LONGEST = 2000  # characters of a message; the middle of a longer one is left out


class InputError(ValueError):
    """Something that the user gave cannot be used; the command line prints it as one line and exits with 2.

    The message may quote a file: what cannot be printed is escaped, and the middle of a very long one is left
    out.
    """

    def __init__(self, message: object) -> None:
        text = str(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has the message as it is: its parts are not asked for again, and it is not cut once more.

        A process that cannot read the error of another one would wait for it for ever.
        """
        return type(self).__new__, (type(self), *self.args), vars(self)


class TextError(InputError):
    """A text that cannot be used from a position on; the message names the position between its two parts."""

    def __init__(self, before: str, position: int, after: str) -> None:
        super().__init__(f"{before} at position {position}{after}")
        self.parts = before, position, after

    def moved(self, by: int) -> TextError:
        """The same error in a longer text, of which this one begins at character number by."""
        before, position, after = self.parts
        return TextError(before, position + by, after)


def near(name: str, names: Iterable[str]) -> list[str]:
    """Up to four of names that somebody who wrote name may have meant, the likeliest first.

    A name without a dot may be the last part of one: "act" means "h.0.mlp.act". Otherwise those spelled alike
    are likely, "h.0.mlp.act" for "h.0.mlp.Atc"; where there are none, those with the same last part.
    """
    import difflib  # imported late, because only a message needs it

    names = list(names)
    matcher = difflib.SequenceMatcher(b=name.lower())
    likeness = {}
    for other in names:
        matcher.set_seq1(other.lower())
        likeness[other] = matcher.ratio()
    alike = sorted((n for n in likeness if likeness[n] > 0.6), key=lambda n: -likeness[n])
    same_end = [n for n in names if n.split(".")[-1] == name.split(".")[-1]]
    if "." in name:
        return (alike or same_end)[:4]
    return (same_end or alike)[:4]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """What to add to a message about a word that none of the names is: " (did you mean train?)", or ""."""
    meant = near(word, names)[:2]
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""
