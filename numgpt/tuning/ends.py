"""Where a response ends: at a token, or where its text holds the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.rendering import End
from ..tokenizers import Tokenizer


class Ending:
    """Tells of responses that grow by a token which of them have just ended.

    end: as a template's end_for gives it. A text that no single token stands for may begin within a token and
    end in another one: as many of the last tokens are read as it has bytes.
    """

    def __init__(self, tokenizer: Tokenizer, end: End) -> None:
        self.tokenizer = tokenizer
        self.end = end
        self.tail = 1 if end.id is not None else len(end.text.encode())
        self.stops: NDArray[np.bool_] | None = None
        if end.id is None and self.tail == 1:
            ids = range(tokenizer.vocab_size)
            self.stops = np.array([end.text in tokenizer.decode([i]) for i in ids])

    def ended(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows of tokens (N, n) end in their last one."""
        if self.end.id is not None:
            return np.asarray(ids[:, -1] == self.end.id)
        if self.stops is not None:
            return np.asarray(self.stops[ids[:, -1]])
        text, decode = self.end.text, self.tokenizer.decode
        return np.array([text in decode(row) for row in ids[:, -self.tail :].tolist()], bool)

    def text(self, ids: Any) -> str:
        """A response's text without its end."""
        return self.tokenizer.decode(ids).partition(self.end.text)[0]
