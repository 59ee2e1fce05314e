"""The one exception for input that cannot be used: what is, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 2000


class InputError(ValueError):
    """Something that the user gave cannot be used; the command line prints it as one line and exits with 2.

    The message may quote a file: what cannot be printed is escaped, and the middle of a very long one left
    out.
    """

    def __init__(self, message: object) -> None:
        text = str(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


class TextError(InputError):
    """A text that cannot be used from a position on, which is named between the two parts of the message."""

    def __init__(self, before: str, position: int, after: str) -> None:
        super().__init__(f"{before} at position {position}{after}")
        self.parts = before, position, after

    def moved(self, by: int) -> TextError:
        """The same of a text that begins so many characters earlier."""
        before, position, after = self.parts
        return TextError(before, position + by, after)


def near(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of names that are spelled much like name, whatever their case; the closest first."""
    import difflib  # only a message needs it

    lower = {n.lower(): n for n in names}
    return [lower[match] for match in difflib.get_close_matches(name.lower(), lower)]
