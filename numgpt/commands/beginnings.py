"""What a run of numgpt train may begin with: random weights, those of a model, and a teacher beside."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..architecture import presets
from ..architecture.config import Config, Training
from ..errors import InputError
from . import flags

SHARE, TEMPERATURE = 0.5, 2.0  # of a teacher

if TYPE_CHECKING:
    from ..data.corpus import Corpus
    from ..model.gpt import GPT
    from ..tokenizers import Tokenizer
    from ..tuning import Distillation


def drawn(args: argparse.Namespace, seed: int, tokenizer: Tokenizer, teacher: Teacher | None) -> GPT:
    """The model that preset and flags describe, with random weights; its vocabulary is the tokenizer's.

    That of a teacher may have more rows than its tokenizer has tokens: then the model has them, too.
    """
    from ..model.gpt import GPT

    changes = flags.fields(args, Config)
    V = tokenizer.vocab_size if teacher is None else teacher.model.config.vocab_size
    if changes.setdefault("vocab_size", V) != V:
        whose = "the tokenizer's" if teacher is None else "the teacher's"
        raise InputError(
            f"train: --vocab-size is {changes['vocab_size']}, expected {V}, {whose}: leave it out"
        )
    config = presets.preset(args.preset or presets.DEFAULT, **changes)
    return GPT(config, seed, args.dtype or "float32", tokenizer)


def first_model(args: argparse.Namespace, seed: int) -> GPT:
    """The model of --init-from, with the run's seed; flags may change its dropout, not its shape."""
    from ..architecture.additions import Head
    from ..architecture.pruned import Pruned
    from ..model.gpt import GPT
    from ..training.agreement import expect_floats
    from ..tuning.trained import has_adapter

    model = GPT.load(args.init_from, args.dtype)
    who = f"--init-from {args.init_from}"
    if args.preset:
        raise InputError(f"{who}: the model has its own shape, expected no --preset besides: leave one out")
    if model.tokenizer is None:
        raise InputError(f"{who}: the model has no tokenizer, expected one to read the text")
    if any(isinstance(addition, Head) for addition in model.additions):
        raise InputError(f"{who}: the model has a head for a task, expected one that writes")
    expect_floats(who, model)
    if has_adapter(model):
        model = model.merged()
    changes = flags.fields(args, Config)
    for name, value in changes.items():
        actual = getattr(model.config, name)
        if name != "dropout" and actual != value:
            raise InputError(
                f"{who}: the model has {name} {actual}, expected {value} by the flags: leave them out"
            )
    config = dataclasses.replace(model.config, dropout=changes.get("dropout", model.config.dropout))
    masks = tuple(addition for addition in model.additions if isinstance(addition, Pruned))
    kept: tuple[Any, ...] = model.tokenizer, model.params, None, masks, model.template
    return GPT(config, seed, model.params.dtype, *kept)


def tokenizer(args: argparse.Namespace, first: GPT | None, teacher: Teacher | None) -> Tokenizer | None:
    """The tokenizer that a run has to use: that of the model it begins with, or of its teacher."""
    from ..tokenizers import expect_named

    owners = {
        f"--init-from {args.init_from}: the model's": first,
        f"--teacher {args.teacher}: the teacher's": None if teacher is None else teacher.model,
    }
    for who, model in owners.items():
        if model is None:
            continue
        own = model.tokenizer
        assert own is not None, "looked at where it was loaded"
        if args.tokenizer is not None:
            expect_named(args.tokenizer, own, who)
        return own
    return None


class Teacher(NamedTuple):
    """A teacher, and what of it stands in a run's recipe."""

    model: GPT
    entry: dict[str, Any]


def teacher(args: argparse.Namespace) -> Teacher | None:
    """That of --teacher, where it is given."""
    share, temperature = args.teacher_share, args.teacher_temperature
    if args.teacher is None:
        if share is not None or temperature is not None:
            flag = "--teacher-share" if share is not None else "--teacher-temperature"
            raise InputError(f"train: {flag} is given without --teacher, expected both: name the teacher")
        return None
    share = SHARE if share is None else share
    temperature = TEMPERATURE if temperature is None else temperature
    if not 0 <= share < 1:
        raise InputError(f"train: --teacher-share is {share}, expected a number from 0 to below 1")
    if not 0 < temperature < math.inf:
        raise InputError(f"train: --teacher-temperature is {temperature}, expected a number above 0")
    entry = {"model": place_of(args.teacher), "share": share, "temperature": temperature}
    model = _loaded(entry)
    return Teacher(model, entry | {"digest": _digest(model)})


def teacher_again(entry: Any) -> Teacher:
    """The teacher of a run that goes on, as its recipe has it."""
    if not isinstance(entry, dict) or {*entry} != {"model", "share", "temperature", "digest"}:
        raise InputError(f"the run's teacher is {str(entry)[:80]}, expected it as numgpt wrote it")
    model = _loaded(entry)
    if _digest(model) != entry["digest"]:
        raise InputError(
            f"the teacher {entry['model']} has changed since the run began, expected it as it was: put it"
            " back"
        )
    return Teacher(model, entry)


def _loaded(entry: dict[str, Any]) -> GPT:
    from ..model.gpt import GPT

    model = GPT.load(entry["model"])
    if model.tokenizer is None:
        raise InputError(f"--teacher {entry['model']}: it has no tokenizer, expected one to read the text")
    return model


def _digest(model: GPT) -> str:
    """SHA-256 of a model's parameters."""
    return hashlib.sha256(model.params.to("reference").flat.tobytes()).hexdigest()


def distillation(teacher: Teacher, corpus: Corpus, training: Training, model: GPT) -> Distillation:
    """The objective of a run with a teacher."""
    from ..training.objective import n_routers
    from ..tuning import Distillation

    if n_routers(model.config):
        raise InputError(
            "--teacher: the model has experts, whose routers learn by losses of their own, expected none:"
            " choose another --preset, or leave the teacher out"
        )
    V, own = teacher.model.config.vocab_size, model.config.vocab_size
    if own != V:
        raise InputError(f"--teacher: its vocab_size is {V:,}, expected the model's {own:,}: choose another")
    share, temperature = teacher.entry["share"], teacher.entry["temperature"]
    size = model.config.block_size
    objective = Distillation(teacher.model, corpus, training, size, temperature=temperature, share=share)
    objective.recipe = corpus.recipe | {"teacher": teacher.entry}
    return objective


def expect_same(out: Path, args: argparse.Namespace, recipe: Mapping[str, Any]) -> None:
    """Raise InputError where flags ask a resumed run for another beginning, or another teacher."""
    entry = recipe.get("teacher")
    entry = entry if isinstance(entry, dict) else {}
    pairs = {
        "--init-from": (recipe.get("init_from"), args.init_from and place_of(args.init_from)),
        "--teacher": (entry.get("model"), args.teacher and place_of(args.teacher)),
        "--teacher-share": (entry.get("share"), args.teacher_share),
        "--teacher-temperature": (entry.get("temperature"), args.teacher_temperature),
    }
    for flag, (own, asked) in pairs.items():
        if asked is not None and asked != own:
            has = "has none" if own is None else f"has {own}"
            raise InputError(
                f"{out}: the run {has} of {flag}, expected {asked} by the flags: leave it out, or choose"
                " another --out"
            )


def place_of(name: str) -> str:
    """What a recipe calls a model or a file: its path from the root, or the name of what is no file."""
    return str(Path(name).resolve()) if os.path.exists(name) else name
