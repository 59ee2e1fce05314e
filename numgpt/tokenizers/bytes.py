"""One token a byte of UTF-8: 256 tokens, any text."""

import numpy as np

from .tokenizer import Tokenizer, utf8


class Bytes(Tokenizer):
    """The bytes of the text are its tokens."""

    pieces = [bytes([i]) for i in range(256)]

    @classmethod
    def build(cls, text):
        """Every text has the same vocabulary."""
        return cls()

    def encode_ordinary(self, text):
        """text → (bytes,) integers below 256; TextError where it holds half of a character."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int64)

    def safe_cut(self, text):
        """A text may be cut anywhere."""
        return len(text)

    def state(self):
        """Nothing but the kind."""
        return {"type": "bytes"}
