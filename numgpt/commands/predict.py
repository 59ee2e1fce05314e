"""numgpt predict: what a model with a head says of texts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from . import flags, runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..architecture.additions import Head
    from ..data.rows import Row
    from ..model.gpt import GPT

HELP = "Say the classes of texts, or their numbers, by a model that was tuned for it."
EXAMPLE = "numgpt predict classifier --data reviews.csv --text review"
EXPECTED = "a table (CSV), or JSON"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt predict."""
    flags.add_checkpoint(parser)
    flags.add(
        parser,
        "--data",
        nargs="+",
        metavar="FILE",
        required=True,
        help=(
            "tables with a header (CSV, or TSV by its ending), or JSON, an object a line; of a reward model"
            " conversations as numgpt tune sft reads them"
        ),
    )
    flags.add(
        parser,
        "--text",
        dest="text_column",
        metavar="NAME",
        help="the column, or field, of the texts",
        default="text",
    )
    flags.add(parser, "--truncate", action="store_true", help="cut the ends of texts that are too long")
    flags.add(parser, "--batch-size", type=flags.positive, metavar="N", help="texts at once", default=32)
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print a JSON object a text: its row of the file, and what the model says."""
    from ..model.gpt import GPT
    from ..tuning import predictions
    from ..tuning.classify import head_of

    model = GPT.load(runs.checkpoint(args))
    if model.tokenizer is None:
        raise InputError("predict: the model has no tokenizer, expected one to read the texts")
    head = head_of(model, ("classes", "numbers", "reward"))
    rows = _rows(args.data)
    try:
        texts = _conversations(model, args) if head.task == "reward" else _texts(model, rows, args)
    except InputError as error:
        raise InputError(str(error).replace("truncate=True", "--truncate")) from error
    found = predictions(model, texts, args.batch_size)
    for row, said in zip(rows, _said(head, found)):
        print(json.dumps({**row.fields, **said}, ensure_ascii=False), flush=True)
    return 0


def _rows(paths: Sequence[str]) -> list[Row]:
    from ..data.rows import rows_of

    rows = list(rows_of(paths, EXPECTED, tables=True))
    if not rows:
        raise InputError(f"{paths[0]}: holds no rows, expected some")
    return rows


def _texts(model: GPT, rows: Sequence[Row], args: argparse.Namespace) -> list[Any]:
    from ..data.task_tables import text_of_row
    from ..tuning.texts import text_ids

    texts = [text_of_row(row, args.text_column) for row in rows]
    return text_ids(model, texts, [row.place for row in rows], args.truncate)


def _conversations(model: GPT, args: argparse.Namespace) -> list[Any]:
    from ..data import read_conversations, template_from_state
    from ..tuning.texts import cut

    if model.template is None or model.tokenizer is None:
        raise InputError("predict: the reward model has no template, expected the one it was tuned with")
    template = template_from_state(model.template)
    conversations = read_conversations(args.data)
    ids = [template.encode(c, model.tokenizer).ids for c in conversations]
    return cut(ids, model.config.block_size, args.truncate, "conversations", [c.place for c in conversations])


def _said(head: Head, found: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """What is added to each row: a reward; numbers by their names; or a class and all probabilities."""
    if head.task == "reward":
        yield from ({"reward": float(row[0])} for row in found)
    elif head.task == "numbers":
        names = [f"predicted {label}" for label in head.labels]
        yield from (dict(zip(names, map(float, row))) for row in found)
    else:
        powers = np.exp(found - found.max(-1, keepdims=True))
        for probs in powers / powers.sum(-1, keepdims=True):
            likeliest = head.labels[int(probs.argmax())]
            probabilities = {label: round(float(p), 6) for label, p in zip(head.labels, probs)}
            yield {"predicted": likeliest, "probabilities": probabilities}
