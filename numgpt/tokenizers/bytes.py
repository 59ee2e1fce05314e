"""One token a byte of UTF-8: 256 tokens, any text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from .tokenizer import Tokenizer, utf8


class Bytes(Tokenizer):
    """The bytes of the text are its tokens.

    Examples
    --------
    >>> from numgpt.tokenizers import Bytes
    >>> Bytes().encode("é").tolist()
    [195, 169]
    """

    kind = "bytes"
    pieces: ClassVar[list[bytes | None]] = [bytes([i]) for i in range(256)]  # type: ignore[misc]

    @classmethod
    @checked
    def build(cls, text: str | Iterable[str] = "") -> Bytes:
        """The tokenizer; every text has the same vocabulary."""
        return cls()

    @checked
    def encode_ordinary(self, text: str) -> NDArray[Any]:
        """text → (bytes,) integers below 256; TextError where it holds half of a character."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int64)

    @checked
    def safe_cut(self, text: str) -> int:
        """The end: a text may be cut anywhere."""
        return len(text)

    def state(self) -> dict[str, Any]:
        """Nothing but the kind."""
        return {"type": self.kind}
