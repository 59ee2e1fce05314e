"""numgpt eval: how well a model predicts a text, and answers questions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..storage.shipped import MODELS, located
from . import evaluate_tasks, flags, runs, several

if TYPE_CHECKING:
    from ..data.corpus import Corpus
    from ..model.gpt import GPT

HELP = "Measure the loss of a text under a model, or what it answers to questions, with errors."
TEXT = "numgpt:austen"  # of the models that ship
EXAMPLE = "numgpt eval runs/1 --task minimal-pairs questions.jsonl --shots 2"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt eval."""
    flags.add_checkpoint(parser)
    flags.add_data(parser, "what the model's own training held out")
    flags.add_special(parser, "the text of --data")
    flags.add(
        parser,
        "--stride",
        type=int,
        metavar="N",
        help="tokens from one window to the next; fewer gives each token more context, and is slower",
        shown="half the context length",
    )
    flags.add(parser, "--batch-size", type=flags.positive, metavar="N", help="windows at once", default=8)
    several.add_flag(parser, "data, each with some of the windows")
    evaluate_tasks.add_task_flags(parser)
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print the score of a text or a task, and the protocol that it depends on."""
    kind = evaluate_tasks.asked(args)
    if kind is not None:
        if args.parallel is not None:
            raise InputError(
                "eval: --parallel shares the windows of one text, expected no --task, --wikitext or --lambada"
                " beside it: leave it out"
            )
        return evaluate_tasks.answer(args, kind, lambda place, model: _held_out(Path(located(place)), model))
    from tqdm import tqdm

    from ..data.corpus import encode
    from ..evaluation.score import score_of, surprises
    from ..model.gpt import GPT

    several.expect_data_alone(args)
    place = runs.checkpoint(args)
    model = GPT.load(place)
    if model.tokenizer is None:
        raise InputError("eval: the checkpoint has no tokenizer, expected one to read the text")
    if args.data:
        source, ids = encode(args.data, model.tokenizer, args.special)
    else:
        source, ids = _held_out(Path(located(place)), model)
    with tqdm(total=len(ids) - 1, unit="tok", disable=None, leave=False) as bar:
        ranks = several.ranks_of(args)
        terms = surprises(model, ids, args.stride, args.batch_size, bar.update, ranks.rank, ranks.size)
        result = score_of(model, ids, args.stride, ranks.all_reduce(terms))
    print(f"text           {source}")
    print(f"loss           {result.loss:.4f} nats a token")
    print(f"perplexity     {result.perplexity:.4f}")
    print(f"bits per byte  {result.bits_per_byte:.4f}")
    print(
        f"protocol       {result.tokens:,} tokens ({result.bytes:,} bytes) after the first, context"
        f" {result.block_size}, stride {result.stride}"
    )
    return 0


def _held_out(folder: Path, model: GPT) -> tuple[str, Any]:
    """(description, ids) of the part of a run's own text that it was not trained on."""
    from ..data import token_files
    from ..interchange.checkpoint import is_run, read_state

    if folder.parent == MODELS:  # what ships was trained by the defaults of prepare()
        return _held_out_of(runs.corpus({"paths": [TEXT]}, model))
    folder = folder.resolve()
    places = (folder / "last", folder.parent / "last", folder)
    last = next((place for place in places if is_run(place)), None)
    if last is None:
        raise InputError(f"eval: {folder} is not in a run, expected --data with a text to evaluate on")
    state = read_state(last)
    tokens = last.parent / "tokens"  # read where it has them; evaluating leaves nothing new in a run's folder
    has_tokens = token_files.find(tokens, state["digest"], model.config.vocab_size) is not None
    corpus = runs.corpus({"folder": tokens if has_tokens else None} | state["recipe"], model)
    if corpus.digest != state["digest"]:
        raise InputError(
            f"eval: {state['source']} has changed since the run, expected the same text: name one by --data"
        )
    return _held_out_of(corpus)


def _held_out_of(corpus: Corpus) -> tuple[str, Any]:
    return f"the held-out part of {corpus.source}", corpus.held_out
