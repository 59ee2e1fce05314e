"""numgpt sample: write text with a trained model."""

from __future__ import annotations

import argparse

from . import flags, runs
from .printing import default_prompt, print_texts

HELP = "Write text with a trained model."
EXAMPLE = "numgpt sample runs/1 --prompt 'The ' --temperature 0.8 --top-k 20 --num-samples 3"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt sample."""
    flags.add_checkpoint(parser)
    flags.add(parser, "--prompt", metavar="TEXT", help="text to continue", shown="a line break")
    flags.add_special(parser, "the prompt")
    flags.add(
        parser,
        "--max-new-tokens",
        type=flags.count,
        metavar="N",
        help="how many tokens to write at most",
        default=300,
    )
    flags.add(
        parser,
        "--temperature",
        type=float,
        metavar="X",
        help="below 1 sharpens, above 1 flattens the distribution; 0 is greedy",
        default=0.8,
    )
    flags.add(
        parser, "--top-k", type=int, metavar="K", help="sample from the K most probable tokens", shown="all"
    )
    flags.add(
        parser,
        "--top-p",
        type=float,
        metavar="P",
        help="sample from the fewest tokens whose probabilities sum to P",
        shown="all",
    )
    flags.add(parser, "--greedy", action="store_true", help="always take the most probable token")
    flags.add(
        parser, "--num-samples", type=flags.positive, metavar="N", help="how many texts to write", default=1
    )
    flags.add(
        parser,
        "--stop",
        action="append",
        metavar="TEXT",
        help=r"end before this text, where \n is a line break; may be repeated",
    )
    flags.add(parser, "--seed", type=int, metavar="N", help="seed of the draws", default=0)
    flags.add(
        parser,
        "--slide",
        type=int,
        metavar="N",
        help="past the context length, drop this many of the oldest tokens at once; more is faster",
        default=1,
    )
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print the samples."""
    from ..model.gpt import GPT

    model = GPT.load(runs.checkpoint(args))
    print_texts(
        model,
        default_prompt(model.tokenizer) if args.prompt is None else args.prompt,
        args.max_new_tokens,
        samples=args.num_samples,
        show_prompt=args.prompt is not None,
        stop=tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in args.stop or ()),
        special=args.special,
        temperature=0.0 if args.greedy else args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        slide=args.slide,
    )
    return 0
