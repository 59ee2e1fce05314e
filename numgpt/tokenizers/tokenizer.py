"""The interface that every tokenizer fills in, and what follows from it."""

import codecs


class Tokenizer:
    """Text ↔ integers. A tokenizer gives vocab_size, encode, decode_bytes, state and build; the rest follows."""

    vocab_size: int

    @classmethod
    def build(cls, text):
        """A tokenizer whose vocabulary fits text."""
        raise NotImplementedError

    def encode(self, text):
        """Integers (T,) for a text; InputError where the vocabulary lacks a part of it."""
        raise NotImplementedError

    def decode_bytes(self, ids):
        """The UTF-8 bytes that ids stand for."""
        raise NotImplementedError

    def state(self):
        """What from_state needs to make this tokenizer again, as JSON holds it."""
        raise NotImplementedError

    def decode(self, ids):
        """The text of ids; bytes that are not UTF-8 show as U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decoder(self):
        """A function for streaming: an id → the text that is complete with it, "" in the middle of a character."""
        codec = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return lambda i, final=False: codec.decode(b"" if i is None else self.decode_bytes([i]), final)
