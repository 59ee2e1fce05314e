"""What stands around the steps of a tokenizer.json: its version, and what comes before and after its ids."""

from __future__ import annotations

from ..errors import InputError
from .entries import Entry, kind, short, steps

KNOWN = tuple(
    "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model".split()
)
POSTPROCESSORS = ("BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing")


def expect_known(file: Entry) -> None:
    """Raise InputError where an entry outside the steps is unknown, or means something else than here.

    Truncation and padding are left out: transformers writes down how its last batch was cut off and padded,
    and asks its caller anew for the next.
    """
    unknown = next((name for name in file if name not in KNOWN), None)
    if unknown is not None:
        raise InputError(f"its entry {unknown[:40]!r} is unknown, expected {', '.join(KNOWN)}")
    if file.get("version", "1.0") != "1.0":
        raise InputError(f'its version is {short(file["version"], 40)}, expected "1.0"')
    for name in ("truncation", "padding"):
        if not isinstance(file.get(name), dict | None):
            raise InputError(f"its {name} is {short(file[name], 40)}, expected an object, or null")
    for step in steps(file.get("post_processor"), "processors"):
        _expect_around_text(step)
    _expect_decoder(file)


def _expect_around_text(step: Entry) -> None:
    """Raise InputError for a post-processor that does more than put special tokens around a text."""
    if kind(step) not in POSTPROCESSORS:
        raise InputError(
            f"its post_processor is {kind(step)}, expected {', '.join(POSTPROCESSORS)}, or several of them in"
            " a Sequence: others are not supported"
        )
    if kind(step) != "TemplateProcessing":
        return
    single = step.get("single")
    parts = single if isinstance(single, list) else []
    texts = [part["Sequence"] for part in parts if isinstance(part, dict) and "Sequence" in part]
    if len(texts) != 1 or not isinstance(texts[0], dict) or texts[0].get("id") != "A":
        raise InputError(
            f"its TemplateProcessing has single {short(single, 80)}, expected the Sequence A once, which is"
            " the text"
        )


def _expect_decoder(file: Entry) -> None:
    """Raise InputError where bytes are spelled and nothing spells them back."""
    cutters = steps(file.get("pre_tokenizer"), "pretokenizers")
    if any(kind(step) == "ByteLevel" for step in cutters) and not steps(file.get("decoder"), "decoders"):
        raise InputError(
            f"its decoder is {short(file.get('decoder'), 80)} beside a ByteLevel pre_tokenizer, expected"
            ' {"type": "ByteLevel"}: without it, Hugging Face\'s tokenizers show how bytes are spelled,'
            " such as Ġthe"
        )
