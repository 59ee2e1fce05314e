"""Training of byte-pair encoding, numgpt and Hugging Face's tokenizers in turn: whole time and peak memory.

Each trains in a process of its own. The text comes with --data, or is made of the default corpus and the
docstrings of the Python modules that are installed here, repeated if they are too few. It is handed over in
parts that end where a pretoken ends. "By lines" is Hugging Face's way with files: a line ends a pretoken, so
the merges are others.

Usage: python benchmarks/tokenizer_training.py --megabytes 10 --merges 8192
"""

import argparse
import ast
import hashlib
import itertools
import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

import contest

KINDS = {
    "numgpt": "numgpt",
    "numgpt, compiling first": "numgpt-cold",
    "numgpt, reference": "reference",
    "Hugging Face": "huggingface",
    "Hugging Face, by lines": "huggingface-lines",
}
DEFAULT = ["numgpt", "numgpt-cold", "huggingface", "huggingface-lines"]  # the reference takes minutes


def make_text(size):
    """size bytes or a little more of UTF-8."""
    from numgpt.data import corpora

    def docstrings(root):
        for path in sorted(Path(root).rglob("*.py")):
            try:
                with warnings.catch_warnings(action="ignore"):
                    tree = ast.parse(path.read_bytes())
            except (OSError, SyntaxError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield ast.get_docstring(node) or ""

    def sources():
        while True:
            yield corpora.python()[1]
            for name in ("stdlib", "purelib"):
                yield from filter(None, docstrings(sysconfig.get_path(name)))

    parts, length = [], 0
    for part in sources():
        parts.append(part.encode("utf-8", "replace"))
        length += len(parts[-1]) + 2
        if length >= size:
            return b"\n\n".join(parts)


def prepare(path, megabytes, pattern):
    """Make the text where it is asked for, and tell how many bytes and distinct pretokens it has.

    In a process of its own: the contestants would inherit its peak of memory.
    """
    from numgpt.tokenizers.bpe_training import count_pretokens
    from numgpt.tokenizers.patterns import Pattern

    if megabytes:
        Path(path).write_bytes(make_text(int(1e6 * megabytes)))

    def describe():
        pretokens = count_pretokens(blocks(path), Pattern(pattern))
        return {"bytes": os.path.getsize(path), "pretokens": len(pretokens)}

    contest.serve({"describe": describe})


def worker(kind, path, merges, pattern):
    """A contestant: train once when asked, and tell time, merges, and peak memory before and after."""
    prepared = huggingface if kind.startswith("huggingface") else numgpt_train
    train = prepared(kind, path, merges, pattern)

    def answer():
        before = contest.peak_memory()
        start = time.perf_counter()
        learned = train()
        seconds = time.perf_counter() - start
        merged = learned()
        return {
            "seconds": seconds,
            "before": before,
            "peak": contest.peak_memory(),
            "merges": len(merged),
            "hash": hashlib.sha256(json.dumps(merged).encode()).hexdigest(),
        }

    contest.serve({"train": answer})


def blocks(path, size=2**20):
    """A file's text, a block at a time."""
    with open(path, encoding="utf-8", newline="") as file:
        yield from iter(lambda: file.read(size), "")


def numgpt_train(kind, path, merges, pattern):
    """numgpt: a function that trains from a file, and gives a function that tells the merges."""
    import numgpt
    from numgpt import tokenizers

    numgpt.use("reference" if kind == "reference" else "numba")

    def train():
        tokenizer = tokenizers.train(blocks(path), 256 + merges, pattern=pattern)
        return lambda: tokenizer.merges

    return train


def huggingface(kind, path, merges, pattern):
    """Hugging Face tokenizers, on all processors. The text is cut before the time begins."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from numgpt.tokenizers import bpe_training, patterns
    from numgpt.tokenizers.two_libraries import SOURCES

    cut = patterns.Pattern(pattern)
    bpe_training.BLOCK = 2**14  # characters of a sequence: enough of them for every processor
    if kind == "huggingface-lines":
        texts = [
            line for block in bpe_training.stretches(blocks(path), (), cut) for line in block.splitlines(True)
        ]
    else:
        texts = list(bpe_training.stretches(blocks(path), (), cut))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
    split = pre_tokenizers.Split(Regex(SOURCES[pattern][0]), "isolated")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = (
        byte_level if pattern == "gpt2" else pre_tokenizers.Sequence([split, byte_level])
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def merged():
        model = json.loads(tokenizer.to_str())["model"]
        return [[model["vocab"][half] for half in merge] for merge in model["merges"]]

    def train():
        tokenizer.train_from_iterator(texts, trainer)
        return merged

    return train


def training_table(path, merges, pattern, kinds, rounds):
    """Rows of figures of training so often in turn, each in a new process. Prints who does not run."""
    names = {kind: name for name, kind in KINDS.items()}
    answers = {kind: [] for kind in kinds}
    for _, kind in itertools.product(range(rounds), kinds):
        time.sleep(contest.PAUSE)
        with tempfile.TemporaryDirectory() as empty:
            flags = ["--worker", kind, "--data", str(path), "--merges", str(merges), "--pattern", pattern]
            contestant = contest.Contestant(
                names[kind],
                [sys.executable, __file__, *flags],
                {"NUMBA_CACHE_DIR": empty} if kind == "numgpt-cold" else {},
            )
            answer = contestant.ask("train")
            contestant.close()
        if answer is None and not answers[kind]:
            print(f"  {names[kind]}: does not run here")
        elif answer is not None:
            answers[kind].append(answer)
    whole = {kind: own for kind, own in answers.items() if len(own) == rounds}
    theirs = whole.get("huggingface")
    return [
        row_of(names[kind], own, theirs or next(iter(whole.values())), theirs) for kind, own in whole.items()
    ]


def row_of(name, own, reference, theirs):
    """A contestant's figures. reference: whose merges they should be; theirs: Hugging Face's, or None."""
    ratio = None
    if theirs:
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(own, theirs))
    return {
        "name": name,
        "seconds": statistics.median(a["seconds"] for a in own),
        "merges": own[0]["merges"],
        "to_huggingface": ratio,
        "before_mb": statistics.median(a["before"] for a in own) / 1e6,
        "peak_mb": statistics.median(a["peak"] for a in own) / 1e6,
        "equal": all(a["hash"] == reference[0]["hash"] for a in own),
    }


def show(rows):
    """The table."""
    print(
        "| | s | to Hugging Face | peak MB | of it before | merges | equal |\n| --- | ---: | ---: | ---: |"
        " ---: | ---: | --- |"
    )
    for r in rows:
        print(
            f"| {r['name']} | {r['seconds']:.2f} | {contest.number(r['to_huggingface'], '.2f')} |"
            f" {r['peak_mb']:.0f} | {r['before_mb']:.0f} | {r['merges']:,} |"
            f" {'yes' if r['equal'] else 'no'} |",
            flush=True,
        )


def main():
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a text in UTF-8, the whole of it")
    parser.add_argument(
        "--megabytes", type=float, default=10, help="of text that is made where none is given"
    )
    parser.add_argument("--merges", type=int, default=8192)
    parser.add_argument("--pattern", default="gpt2", choices=["gpt2", "cl100k", "o200k"])
    parser.add_argument("--rounds", type=int, default=3, help="how often each trains")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(KINDS.values()),
        default=DEFAULT,
        help="contestants; all but the reference unless given",
    )
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        if args.worker == "prepare":
            prepare(args.data, args.megabytes, args.pattern)
        else:
            worker(args.worker, args.data, args.merges, args.pattern)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = args.data or Path(folder) / "text.txt"
        megabytes = "0" if args.data else str(args.megabytes)
        flags = [
            "--worker",
            "prepare",
            "--data",
            str(path),
            "--pattern",
            args.pattern,
            "--megabytes",
            megabytes,
        ]
        preparation = contest.Contestant("the text", [sys.executable, __file__, *flags])
        text = preparation.ask("describe")
        preparation.close()
        if text is None:
            sys.exit(f"{path}: cannot be counted, expected a text in UTF-8")
        print(contest.show_machine())
        print(
            f"{args.data or 'default corpus and installed docstrings'}: {text['bytes']:,} bytes,"
            f" {text['pretokens']:,} distinct pretokens of {args.pattern}"
        )
        rows = training_table(path, args.merges, args.pattern, args.only, args.rounds)
        show(rows)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": contest.machine(), "text": text, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
