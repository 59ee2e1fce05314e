"""What must agree in a run: model and data, the names in its folder, and the run that it goes on from."""

from __future__ import annotations

import dataclasses
import numbers
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..architecture.additions import quantized_by
from ..architecture.config import Training
from ..data.corpus import Corpus
from ..errors import InputError
from ..interchange import checkpoint
from ..model.gpt import GPT
from . import log

NAME = re.compile(r"\w([\w.-]{0,98}\w)?", re.ASCII)  # of a checkpoint beside last and best
USUAL = {"objective": "Pretraining", "optimizer": "AdamW"}  # of runs whose state does not say it
TAKEN = (*checkpoint.PLACES, log.NAME, "tokens", "start")  # names in a run's folder that mean something to it


def expect_one_tokenizer(model: GPT, corpus: Corpus) -> None:
    """Raise InputError where the ids of a corpus do not mean to a model what they mean in the text."""
    own, tokenizer, V = model.tokenizer, corpus.tokenizer, model.config.vocab_size
    if own is not None and own != tokenizer:
        raise InputError(
            f"Trainer: the model's tokenizer is not that of {corpus.source}, expected one for both: give"
            " prepare(…, tokenizer=model.tokenizer)"
        )
    if tokenizer.vocab_size > V:
        raise InputError(
            f"Trainer: the tokenizer of {corpus.source} has {tokenizer.vocab_size:,} tokens, expected at most"
            f" the model's vocab_size of {V:,}: give Config(vocab_size=corpus.tokenizer.vocab_size)"
        )


def expect_floats(who: str, model: GPT) -> None:
    """Raise InputError for a quantized model: a step of training is far smaller than one of its grids."""
    if quantized_by(model.additions) is not None:
        raise InputError(
            f"{who}: the model is quantized, whose matrices cannot be trained, expected floats, or an adapter"
            " beside them: tune it with --lora R, in Python model.extended(numgpt.LoRA())"
        )


def expect_trainable(model: GPT, optimizer: Any) -> None:
    """Raise InputError where a run would move all that is left of a quantized model."""
    if getattr(optimizer, "names", None) is None:
        expect_floats("Trainer", model)


def identity(objective: Any, corpus: Corpus | None) -> dict[str, Any]:
    """What a run is trained on, as its state holds it: what an objective does not say, its corpus does."""
    corpus = corpus or getattr(objective, "corpus", None)
    source = getattr(objective, "source", corpus.source if corpus else type(objective).__name__)
    digest = getattr(objective, "digest", corpus.digest if corpus else "")
    for name, text in (("source", source), ("digest", digest)):
        if not isinstance(text, str):
            raise InputError(
                f"{type(objective).__name__}: {name} is {type(text).__name__}, expected a string: it tells"
                " the data of one run from those of another"
            )
    recipe = getattr(objective, "recipe", corpus.recipe if corpus else {})
    return {"source": source, "recipe": recipe, "digest": digest}


def steps_of_iteration(objective: Any, training: Training) -> int:
    """After how many steps a run with an objective may be saved, and stop."""
    steps = getattr(objective, "per_iteration", 1)
    if not isinstance(steps, numbers.Integral) or steps < 1 or training.steps % steps:
        raise InputError(
            f"Trainer: an iteration of {type(objective).__name__} has {steps} steps and the run"
            f" {training.steps}, expected whole iterations: choose steps that {steps} divides"
        )
    return int(steps)


def moving(objective: Any) -> dict[str, Any]:
    """What of an objective changes in a run, as its state holds it."""
    return {"moving": dict(objective.state())} if hasattr(objective, "state") else {}


def take_over(objective: Any, stored: Mapping[str, Any]) -> None:
    """Give an objective what it had changed when a run was saved."""
    if not hasattr(objective, "state"):
        return
    if not isinstance(stored.get("moving"), dict):
        raise InputError(
            f"the run's state: moving is {stored.get('moving')!r}, expected it as numgpt wrote it: use"
            " another checkpoint"
        )
    objective.load_state(stored["moving"])


def unusual(objective: Any, optimizer: Any) -> dict[str, str]:
    """The names of an objective and an optimizer that are not those of pre-training."""
    names = {"objective": type(objective).__name__, "optimizer": type(optimizer).__name__}
    return {kind: name for kind, name in names.items() if name != USUAL[kind]}


def expect_same_run(out: Path, stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise InputError unless a stored state is of a run with the own one's data, objective and optimizer."""
    for kind, usual in USUAL.items():
        before, now = stored.get(kind, usual), own.get(kind, usual)
        if before != now:
            raise InputError(
                f"{out}: was trained with the {kind} {before}, and this Trainer has {now}, expected the run's"
                f" own: give {kind}={before}(…)"
            )
    if stored["digest"] != own["digest"]:
        raise InputError(
            f"{out}: was trained on {stored['source']} as it was then, and {own['source']} differs from it;"
            " expected the same text and the same way to prepare it: give the run's own --data"
        )


def expect_name(name: str) -> None:
    """Raise InputError unless a checkpoint in a run's folder may have a name."""
    if name in checkpoint.PLACES:
        return
    if NAME.fullmatch(name) is None:
        raise InputError(
            f"Trainer.save: name is {name[:80]!r}, expected one of up to 100 letters, digits, _, - and . such"
            " as 'step-1000': it is a folder in the run's own"
        )
    if name.lower() in TAKEN:  # there are disks to which Last is last
        raise InputError(
            f"Trainer.save: the run uses the name {name!r} itself, expected last, best or one of your own"
        )


def changes(stored: Mapping[str, Any], training: Training) -> list[str]:
    """What a run goes on with instead of its own settings; another number of steps is no change."""
    fields = [f for f in dataclasses.fields(training) if f.name != "steps"]
    pairs = [(f.name, stored.get(f.name, f.default), getattr(training, f.name)) for f in fields]
    return [f"{name} {now} (was {before})" for name, before, now in pairs if before != now]
