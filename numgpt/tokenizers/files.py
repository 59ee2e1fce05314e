"""Files of tokenizers, told apart by what is in them."""

import json
from pathlib import Path

from ..errors import InputError
from ..storage.atomic import write_file
from ..storage.files import Missing, parse_json, read_bytes
from . import gpt2_files, huggingface_file, tiktoken_file
from .bpe import BPE
from .bytes import Bytes
from .unigram import Unigram

LONGEST = 2**26  # bytes: a tokenizer.json with 260,000 tokens has some 35 million
EXPECTED = (
    "expected numgpt's or Hugging Face's tokenizer.json, GPT-2's vocab.json and merges.txt, a .tiktoken or a"
    " .model of sentencepiece"
)
KINDS = ("numgpt", "huggingface", "gpt2", "tiktoken", "sentencepiece")  # that are written


def read(path, pattern=None, specials=None):
    """The tokenizer of a file of others, or the state that a file of numgpt holds; arguments and errors as of
    tokenizers.load.
    """
    path = _in_folder(Path(path)) if Path(path).is_dir() else Path(path)
    data = read_bytes(path, LONGEST)
    given = [name for name, value in (("pattern", pattern), ("specials", specials)) if value is not None]
    if path.suffix == ".model":
        _expect_none(path, given)
        return _told(path, Unigram, data)
    if data.lstrip()[:1] == b"{":
        content = parse_json(data, path)
        if content and all(
            isinstance(i, int) for i in content.values()
        ):  # before the others: "type" and "model" are tokens too
            return _gpt2(
                path, content, read_bytes(_beside(path, gpt2_files.NAMES), LONGEST), pattern, specials
            )
        if "type" in content or huggingface_file.is_huggingface(content):
            _expect_none(path, given)
            return content if "type" in content else _told(path, huggingface_file.read, content)
    elif tiktoken_file.is_tiktoken(data):
        return _told(path, tiktoken_file.read, data, path, "gpt2" if pattern is None else pattern, specials)
    elif gpt2_files.is_merges(data, path.name):
        vocab = _beside(path, {merges: vocab for vocab, merges in gpt2_files.NAMES.items()})
        return _gpt2(vocab, parse_json(read_bytes(vocab, LONGEST), vocab), data, pattern, specials)
    begin = f"begins with {data[:16]!r}" if data else "is empty"
    raise InputError(f"{path}: is not a tokenizer ({begin}), {EXPECTED}")


def _expect_none(path, given):
    if given:
        raise InputError(
            f"{path}: holds its own {given[0]}, expected {given[0]} only for GPT-2's and tiktoken's files:"
            " leave it out"
        )


def _in_folder(folder):
    """The file of a folder that says most."""
    names = ["tokenizer.json", *gpt2_files.NAMES]
    found = [folder / name for name in names if (folder / name).is_file()] or sorted(
        [*folder.glob("*.tiktoken"), *folder.glob("*.model")]
    )
    if not found or (len(found) > 1 and found[0].suffix != ".json"):
        raise Missing(
            f"{folder}: holds {'no tokenizer' if not found else f'{len(found)} of them'}, {EXPECTED}"
        )
    return found[0]


def _beside(path, names):
    """The other one of GPT-2's two files."""
    wanted = [names[path.name]] if path.name in names else list(names.values())
    found = next((path.with_name(name) for name in wanted if path.with_name(name).is_file()), None)
    if found is None:
        raise InputError(f"{path}: is one of GPT-2's two files, expected {' or '.join(wanted)} beside it")
    return found


def _gpt2(path, vocab, merges, pattern, specials):
    """GPT-2's two files; what transformers keeps in added_tokens.json is special too."""
    added = path.with_name("added_tokens.json")
    more = parse_json(read_bytes(added, LONGEST), added) if added.is_file() else {}
    if not isinstance(more, dict) or not all(type(i) is int for i in more.values()):
        raise InputError(f"{added}: is not a list of tokens, expected {{token: id}}")
    return _told(
        path,
        gpt2_files.read,
        vocab,
        merges,
        "gpt2" if pattern is None else pattern,
        more | dict(specials or {}),
    )


def _told(path, reader, *args):
    """What a reader makes; its errors name the file, in the place of "tokenizer"."""
    try:
        return reader(*args)
    except InputError as error:
        raise InputError(
            f"{error}"
            if str(error).startswith(str(path))
            else f"{path}: {str(error).removeprefix('tokenizer: ')}"
        ) from error


def write(tokenizer, path, kind):
    """What tokenizers.export does."""
    if kind not in KINDS:
        raise InputError(f"export: kind {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    path = Path(path)
    if kind == "numgpt":
        tokenizer.save(path)
        return {}
    if kind == "sentencepiece" and isinstance(tokenizer, Unigram):
        write_file(path, tokenizer.model)
        return {}
    tokenizer = as_bpe(tokenizer)
    if kind == "sentencepiece":
        raise InputError(
            "export: sentencepiece's files hold no byte pairs as ours are, expected a unigram tokenizer:"
            " choose another kind"
        )
    if kind == "tiktoken":
        write_file(path, tiktoken_file.write(tokenizer))
        return {"pattern": tokenizer.pattern.name, "specials": dict(tokenizer.specials)}
    if kind == "huggingface":
        write_file(path / "tokenizer.json" if path.is_dir() else path, huggingface_bytes(tokenizer))
        return {}
    vocab, merges = gpt2_files.write(tokenizer)
    path.mkdir(parents=True, exist_ok=True)
    write_file(path / "vocab.json", vocab)
    write_file(path / "merges.txt", merges)
    return {}


def as_bpe(tokenizer):
    """A BPE that gives the ids of a tokenizer: bytes are one without merges. InputError where there is none."""
    if isinstance(tokenizer, Bytes):
        return BPE(tokenizer.pieces, [])
    if not isinstance(tokenizer, BPE):
        raise InputError(
            f"export: the tokenizer is {tokenizer.state()['type']!r}, expected bpe or bytes for a file that"
            " others read: choose the kind numgpt, or for unigram sentencepiece"
        )
    return tokenizer


def huggingface_bytes(tokenizer):
    """The bytes of a tokenizer.json."""
    return (json.dumps(huggingface_file.write(tokenizer), ensure_ascii=False, indent=1) + "\n").encode()
