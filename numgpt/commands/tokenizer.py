"""The commands of numgpt tokenizer: train, encode, decode, show."""

import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from .. import tokenizers
from ..data import text, token_files
from ..errors import InputError
from ..storage.files import open_file
from ..tokenizers.patterns import Pattern
from ..tokenizers.show import lines, wants_color

ARRAYS = (".npy", ".bin")  # endings of files of ids; any other holds them as text


def tokenizer(args):
    """numgpt tokenizer: one of ACTIONS, or the help."""
    if args.action is None:
        args.print_help()
        return 0
    return ACTIONS[args.action](args)


def train(args):
    """numgpt tokenizer train."""
    out = Path(args.out)
    _expect_place(out, args.format)
    if args.kind == "unigram":
        odd = [
            flag
            for flag, given in (
                ("--pattern", args.pattern),
                ("--min-frequency", args.min_frequency),
                ("--format", args.format != "numgpt"),
            )
            if given
        ]
        if odd:
            raise InputError(
                f"tokenizer train: {odd[0]} stands beside --kind unigram, expected it for bpe alone: leave"
                " it out"
            )
    else:
        pattern = Pattern("gpt2" if args.pattern is None else args.pattern).name  # before the text is read
        with tempfile.TemporaryDirectory() as place:  # as is what the format cannot say
            specials = (
                {t: i for i, t in enumerate(args.special_token, 256)} if args.format != "numgpt" else {}
            )
            tokenizers.export(
                tokenizers.BPE(tokenizers.Bytes.pieces, [], pattern, specials),
                Path(place) / "new",
                args.format,
            )
    corpus = text.Text(args.files)
    if args.kind == "unigram":
        _say("training with sentencepiece, which says nothing until it is done")
        made = tokenizers.unigram.train(corpus, args.vocab_size, specials=args.special_token)
    else:
        made = tokenizers.train(
            corpus,
            args.vocab_size,
            pattern=pattern,
            specials=args.special_token,
            min_frequency=args.min_frequency or 2,
            progress=True,
        )
    if args.format == "numgpt":
        made.save(out)
    else:
        told = tokenizers.export(made, out, args.format)
        if told:
            _say(
                f"numgpt: {out} does not say"
                f" {' and '.join(f'{name} {value!r}' for name, value in told.items() if value)}: name them"
                " when you load it"
            )
    sizes = []
    tokens = sum(map(len, made.encode_parts(_measured(corpus.parts("encoding"), sizes), special="allow")))
    print(f"{out}: {made.vocab_size:,} tokens, {_ratio(sum(sizes), tokens)} of {corpus.source}")
    if made.vocab_size < args.vocab_size:
        _say(
            f"numgpt: {made.vocab_size:,} of the {args.vocab_size:,} tokens were found: no other pair is"
            " frequent enough; --min-frequency 1, or more text, gives more"
        )
    return 0


def encode(args):
    """numgpt tokenizer encode."""
    if args.out and Path(args.out).suffix not in ARRAYS:
        raise InputError(
            f"tokenizer encode: --out is {args.out}, expected a name that ends in {' or '.join(ARRAYS)}: for"
            " text redirect the output"
        )
    if args.out:
        _expect_place(Path(args.out))
    parts, sizes = [_text(args)] if args.tokenizer == "chars" else _parts(args), []
    found = _load(args, parts[0] if args.tokenizer == "chars" else None)
    dtype = token_files.dtype(found.vocab_size)
    ids = np.concatenate(
        [part.astype(dtype) for part in found.encode_parts(_measured(parts, sizes), special=args.special)]
    )
    if args.out:
        _write_ids(Path(args.out), ids)
    if args.count:
        print(_ratio(sum(sizes), len(ids)))
    elif args.out:
        print(f"{args.out}: {len(ids):,} tokens as {dtype}")
    else:
        print(*ids.tolist())
    return 0


def decode(args):
    """numgpt tokenizer decode."""
    found = _load(args)
    ids = _ids(args, found)
    if args.bytes or args.errors == "surrogateescape":
        sys.stdout.flush()
        sys.stdout.buffer.write(found.decode_bytes(ids))
        sys.stdout.buffer.flush()
        return 0
    text = found.decode(ids, args.errors)
    print(text, end="\n" if sys.stdout.isatty() and not text.endswith("\n") else "")
    return 0


def show(args):
    """numgpt tokenizer show."""
    whole = _text(args)
    found = _load(args, whole)
    ids = found.encode(whole, special=args.special)
    for line in lines(found, ids, wants_color(args.color), args.width or shutil.get_terminal_size().columns):
        print(line)
    characters = whole.decode("utf-8", "replace") if isinstance(whole, bytes) else whole
    print(f"{_plural(len(characters), 'character')}, {_ratio(_size(whole), len(ids))}")
    return 0


def _measured(parts, sizes):
    """The parts of a text; the bytes of each are added to the list sizes as it goes by."""
    for part in parts:
        sizes.append(_size(part))
        yield part


def _size(part):
    """The bytes of a part of a text."""
    return len(part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape"))


def _ratio(size, tokens):
    """Bytes and tokens, and the bytes a token."""
    return f"{_plural(size, 'byte')}, {_plural(tokens, 'token')}" + (
        f", {size / tokens:.2f} bytes per token" if tokens else ""
    )


def _plural(n, what):
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _load(args, text=None):
    """The tokenizer that an argument names: chars (those of the text), bytes, a file, a folder, a checkpoint
    or a run.
    """
    name = args.tokenizer
    if name == "chars":
        if not text:
            raise InputError(
                "tokenizer: chars has a vocabulary only where there is a text, expected bytes, or a"
                " tokenizer's file, a checkpoint or a run"
            )
        return tokenizers.Characters.build(
            text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
        )
    if name == "bytes":
        return tokenizers.Bytes()
    path = _in_run(Path(name))
    return tokenizers.load(path, args.pattern, _special_tokens(args.special_token))


def _special_tokens(given):
    """{text: id} of TEXT=ID, or None where none is given."""
    found = [re.fullmatch(r"(.+)=([0-9]{1,18})", one, re.DOTALL | re.ASCII) for one in given or ()]
    if None in found:
        raise InputError(
            f"--special-token is {given[found.index(None)]!r}, expected a text and its id, such as"
            " '<|endoftext|>=50256'"
        )
    return {m[1]: int(m[2]) for m in found} or None


def _in_run(path):
    """The tokenizer's file of a checkpoint, or of a run's best or last one; else the path itself."""
    from ..interchange.checkpoint import TOKENIZER, find, is_checkpoint

    if not path.exists() and not path.is_symlink():
        raise InputError(
            f"{path}: does not exist, expected a tokenizer's file or folder, a checkpoint or a run, or bytes:"
            " numgpt tokenizer train makes one"
        )
    if (path / TOKENIZER).is_file():
        return path / TOKENIZER
    if (
        any(is_checkpoint(p) for p in (path, path / "best", path / "last"))
        and not (path / "vocab.json").is_file()
    ):
        path = find(path)
        if not (path / TOKENIZER).is_file():
            raise InputError(
                f"{path}: is a checkpoint without {TOKENIZER}, expected one that was trained on text: name a"
                " tokenizer's own file"
            )
        return path / TOKENIZER
    return path


def _text(args):
    """The text that a command was given: its argument, --file, or what comes in. With --bytes, bytes as they
    are.
    """
    return (b"" if args.bytes else "").join(_parts(args))


def _parts(args):
    """_text, a part after the other."""
    from tqdm import tqdm

    if args.text is not None and args.file is not None:
        raise InputError("tokenizer: a text and --file stand side by side, expected one of them")
    if args.text is None:
        file, source = _opened(args.file)
    else:
        file, source = io.BytesIO(args.text.encode("utf-8", "surrogateescape")), "the text"
    with file, tqdm(desc="reading", unit="B", unit_scale=True, disable=None, leave=False, delay=1) as bar:
        if args.bytes:
            while part := file.read(text.PART):
                yield part
                bar.update(len(part))
        else:
            yield from (
                part
                for part, _ in text.decoded(
                    source, file, bar.update, "convert it, or take the bytes as they are with --bytes"
                )
            )


def _opened(name):
    """(a file, what it is called), of stdin where there is no name or it is -."""
    if name is None or name == "-":
        if sys.stdin is None:  # closed by the shell: <&-
            raise InputError("stdin: is closed, expected a text: give it as an argument or with --file")
        return sys.stdin.buffer, "stdin"
    return open_file(name, pipes=True), name


def _ids(args, found):
    """The ids that decode was given: its arguments, --file, or what comes in."""
    if args.ids and args.file is not None:
        raise InputError("tokenizer decode: ids and --file stand side by side, expected one of them")
    if args.ids:
        return _integers(" ".join(args.ids), "decode")
    file, source = _opened(args.file)
    with file:
        data = file.read()
    ending = Path(source).suffix if args.file else ""
    if ending == ".npy":
        try:
            ids = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise InputError(
                f"{source}: is not an array of NumPy ({error}), expected ids as encode --out writes them"
            ) from error
        if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
            raise InputError(f"{source}: holds no integers, expected ids as encode --out writes them")
        return ids
    if ending == ".bin":
        dtype = token_files.dtype(found.vocab_size)
        if len(data) % dtype.itemsize:
            raise InputError(
                f"{source}: has {len(data):,} bytes, expected a multiple of {dtype.itemsize}, ids as {dtype},"
                f" which a vocabulary of {found.vocab_size:,} has"
            )
        return np.frombuffer(data, dtype)
    return _integers(data.decode("utf-8", "replace"), source)


def _integers(text, source):
    """The integers of a text, between white space, commas and brackets."""
    words = re.split(r"[\s,\[\]()]+", text)
    for word in words:
        if word and not re.fullmatch(r"[+-]?[0-9]{1,18}", word, re.ASCII):
            raise InputError(f"{source}: {word[:40]!r} is no id, expected integers such as 15496 995")
    return np.array([int(word) for word in words if word], np.int64)


def _write_ids(path, ids):
    from ..storage.atomic import write_file

    if path.suffix == ".bin":
        return write_file(path, ids.tobytes())
    buffer = io.BytesIO()
    np.save(buffer, ids)
    write_file(path, buffer.getvalue())


def _expect_place(path, kind="numgpt"):
    """Raise InputError where a file, for GPT-2's files a folder, cannot be written: before the work, not
    after it.
    """
    if kind != "gpt2" and path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file to write: choose another --out")
    if kind == "gpt2" and path.exists() and not path.is_dir():
        raise InputError(
            f"{path}: is a file, expected a folder for vocab.json and merges.txt: choose another --out"
        )
    if kind != "gpt2" and not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist, expected one: make it, or choose another --out")


def _say(text):
    print(text, file=sys.stderr, flush=True)


ACTIONS = {"train": train, "encode": encode, "decode": decode, "show": show}
