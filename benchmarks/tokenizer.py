"""Encoding by byte pairs, in megabytes a second: numgpt, tiktoken and Hugging Face, on one thread.

All three have the same merges: GPT-2's where --ranks names a file gpt2.tiktoken, or openai-whisper, which
holds one, is installed; else those that numgpt learns from the prose. Ids are compared before any timing.

The texts are prose, code of this machine, and hostile ones: a megabyte without a cut.

Usage: python benchmarks/tokenizer.py
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

# Read when the libraries are imported.
os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import contest

SEED = 0
SIZE = 1_000_000  # bytes of a hostile text


def texts_of(path):
    """Name → text. path: of the prose, None for the default corpus."""
    import numpy as np

    from numgpt.data import corpora

    def drawn(alphabet):
        return "".join(random.Random(SEED).choices(alphabet, k=SIZE // len(alphabet[0].encode())))

    modules = sorted(Path(np.__file__).parent.rglob("*.py"))
    return {
        "prose": Path(path).read_text("utf-8") if path else corpora.python()[1],
        "code": "".join(m.read_text("utf-8", "replace") for m in modules)[: 2 * SIZE],
        "a word of random letters": drawn("abcdefghijklmnopqrstuvwxyz"),
        "one letter": "a" * SIZE,
        "spaces": " " * SIZE,
        "line ends": "\n" * SIZE,
        "digits": drawn("0123456789"),
        "one emoji": "🙂" * (SIZE // 4),
        "emoji": drawn("🙂🚀🎉🍕👩"),
    }


def ranked_tokens(path, prose, size):
    """(where they are from, tokens in the order of their ranks)."""
    if path is None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            files = metadata.distribution("openai-whisper").files or []
            path = next((f.locate() for f in files if f.name == "gpt2.tiktoken"), None)
    from numgpt import tokenizers

    if path is not None:
        return Path(path).name, tokenizers.load(path).tokens
    return f"{size:,} tokens trained on the prose", tokenizers.train(prose, size).tokens


def contestants(tokens, pattern):
    """Name → what makes a tokenizer anew, a function text → ids. What is not installed is left out."""
    from numgpt.tokenizers import BPE
    from numgpt.tokenizers.patterns import PATTERNS
    from numgpt.tokenizers.spelling import spell
    from numgpt.tokenizers.tiktoken_file import recover_merges
    from numgpt.tokenizers.two_libraries import SOURCES

    merges = recover_merges(BPE(tokens))

    def numgpt():
        return BPE(tokens, None, pattern).encode

    def tiktoken():
        import tiktoken

        # GPT-2's pattern, spelled so that a megabyte of spaces does not fill the stack.
        from tiktoken_ext.openai_public import r50k_pat_str

        spelled = r50k_pat_str if pattern == "gpt2" else PATTERNS[pattern]
        ranks = {token: i for i, token in enumerate(tokens)}
        encoding = tiktoken.Encoding(pattern, pat_str=spelled, mergeable_ranks=ranks, special_tokens={})
        return encoding.encode_ordinary

    def huggingface():
        import tokenizers as tk

        vocab = {spell(token): i for i, token in enumerate(tokens)}
        pairs = [(spell(tokens[a]), spell(tokens[b])) for a, b in merges]
        theirs = tk.Tokenizer(tk.models.BPE(vocab, pairs, ignore_merges=True))
        split = tk.pre_tokenizers.Split(tk.Regex(SOURCES[pattern][0]), "isolated")
        level = tk.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
        theirs.pre_tokenizer = level if pattern == "gpt2" else tk.pre_tokenizers.Sequence([split, level])
        # The fast one leaves out the places of tokens in the text.
        return lambda text: theirs.encode_batch_fast([text])[0].ids

    installed = {}
    for name, make in {"numgpt": numgpt, "tiktoken": tiktoken, "Hugging Face": huggingface}.items():
        try:
            make()
            installed[name] = make
        except ImportError:
            print(f"  {name}: is not installed")
    return installed


def seconds(encode, text):
    """One call's time."""
    start = time.perf_counter()
    encode(text)
    return time.perf_counter() - start


def measure(makers, text, rounds):
    """Name → seconds of each round. "numgpt, new" has encoded nothing before, the others this text."""
    encoders = {name: make() for name, make in makers.items()}
    expected = list(encoders["numgpt"](text))
    for name, encode in list(encoders.items()):
        try:
            ids = encode(text)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # tiktoken's, when its expressions fill the stack
                raise
            print(f"  {name}: {error}")
            del encoders[name]
        else:
            assert list(ids) == expected, f"{name} has other ids than numgpt"
    taken = {name: [] for name in ("numgpt, new", *encoders)}
    for _ in range(rounds):
        taken["numgpt, new"].append(seconds(makers["numgpt"](), text))
        for name, encode in encoders.items():
            taken[name].append(seconds(encode, text))
    return taken


def row_of(name, text, taken):
    """The figures of one text."""
    size = len(text.encode()) / 1e6
    speed = {who: size / statistics.median(times) for who, times in taken.items()}

    def ratio(who):
        if "tiktoken" not in taken:
            return None
        return statistics.median(theirs / ours for theirs, ours in zip(taken["tiktoken"], taken[who]))

    return {
        "text": name,
        "mb": size,
        "speed": speed,
        "new_to_tiktoken": ratio("numgpt, new"),
        "to_tiktoken": ratio("numgpt"),
    }


def show(rows):
    """The table."""
    number = contest.number
    print(
        "| MB/s | MB | numgpt, new | numgpt | tiktoken | Hugging Face | new to tiktoken | to tiktoken | time"
        " a byte, new, to prose's |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        speeds = " | ".join(
            number(r["speed"].get(who), ".1f")
            for who in ("numgpt, new", "numgpt", "tiktoken", "Hugging Face")
        )
        prose = rows[0]["speed"]["numgpt, new"] / r["speed"]["numgpt, new"]
        print(
            f"| {r['text']} | {r['mb']:.1f} | {speeds} | {number(r['new_to_tiktoken'], '.2f')} |"
            f" {number(r['to_tiktoken'], '.2f')} | {prose:.2f} |"
        )


def main():
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", metavar="FILE", help="a .tiktoken file, such as gpt2.tiktoken")
    parser.add_argument("--text", metavar="FILE", help="prose of your own")
    parser.add_argument(
        "--pattern", default="gpt2", choices=("gpt2", "cl100k", "o200k"), help="what cuts the texts"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=8192,
        help="size of the vocabulary that is learned where there are no ranks",
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often each is asked, in turn")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="some of the texts; all unless given")
    parser.add_argument(
        "--training",
        action="store_true",
        help="then compare training, by tokenizer_training.py; it takes some minutes",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    import numgpt

    numgpt.use("numba")
    texts = texts_of(args.text)
    source, tokens = ranked_tokens(args.ranks, texts["prose"], args.size)
    print(
        f"{contest.show_machine()}, {versions()}\n{source}, pattern {args.pattern}, one thread, medians of"
        f" {args.rounds} rounds in turn\n"
    )
    makers = contestants(tokens, args.pattern)
    makers["numgpt"]()("compile first " * 1000)
    rows = [
        row_of(name, text, measure(makers, text, args.rounds))
        for name, text in texts.items()
        if args.only is None or name in args.only or name == "prose"
    ]
    show(rows)
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": contest.machine(), "rows": rows}, indent=1))
    if args.training:
        subprocess.run(
            [sys.executable, Path(__file__).with_name("tokenizer_training.py"), "--pattern", args.pattern],
            check=True,
        )


def versions():
    """The versions of the packages that are compared."""
    versions = []
    for package in ("regex", "tiktoken", "tokenizers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    return ", ".join(versions)


if __name__ == "__main__":
    sys.exit(main())
