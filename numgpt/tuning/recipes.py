"""Recipes: from files to an objective, the same again when a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..architecture.config import Training
from ..data import (
    Example,
    permuted_split,
    read_conversations,
    read_preferences,
    read_task,
    template_from_state,
)
from ..errors import InputError
from .classify import Tasks, head_of
from .prefer import Preferences
from .rewards import Rewards
from .sft import Responses

Recipe = Mapping[str, Any]


class Kind(NamedTuple):
    """A way to tune: its settings' defaults, and the function that makes its objective."""

    training: Training
    epochs: float
    build: Callable[[Any, Training, Recipe, Any], Any]


def objective(kind: str, model: Any, training: Training, recipe: Recipe, fixed: Any = None) -> Any:
    """The objective of a recipe.

    recipe: paths, template (a state), held_out (a share), and the options of the objective's class. fixed: of
    a preference, the model that training began with.
    """
    if model.tokenizer is None:
        raise InputError(
            "tune: the model has no tokenizer, expected one to read the texts: train one with it"
        )
    try:
        made = KINDS[kind].build(model, training, recipe, fixed)
    except TypeError as error:
        raise InputError(
            f"the run's recipe cannot be followed ({error}), expected it as numgpt wrote it"
        ) from error
    made.recipe = dict(recipe)
    return made


def _responses(model: Any, training: Training, recipe: Recipe, fixed: Any) -> Responses:
    template = template_from_state(recipe["template"])
    conversations = read_conversations(recipe["paths"])
    examples = [template.encode(c, model.tokenizer) for c in conversations]
    train, held_out = _split(examples, recipe, training.seed)
    size = model.config.block_size
    return Responses(train, training, size, held_out, source=_source(recipe), **recipe["options"])


def _pairs(model: Any, recipe: Recipe, seed: int) -> tuple[list[Any], list[Any]]:
    template = template_from_state(recipe["template"])
    read = read_preferences(recipe["paths"])

    def side(conversation: Any, context: int) -> Example:
        return template.encode(conversation, model.tokenizer, context=context)

    pairs = [tuple(side(s, len(p.prompt)) for s in p.sides) for p in read]
    # Pairs of one prompt stay on one side, else what is held out would have been half seen.
    groups = [p.prompt if p.prompt else n for n, p in enumerate(read)]
    return _split(pairs, recipe, seed, groups)


def _preferences(model: Any, training: Training, recipe: Recipe, fixed: Any) -> Preferences:
    train, held_out = _pairs(model, recipe, training.seed)
    size = model.config.block_size
    return Preferences(train, training, size, fixed, held_out, source=_source(recipe), **recipe["options"])


def _rewards(model: Any, training: Training, recipe: Recipe, fixed: Any) -> Rewards:
    parts = _pairs(model, recipe, training.seed)
    train, held_out = ([tuple(side.ids for side in pair) for pair in part] for part in parts)
    return Rewards(model, train, training, held_out, source=_source(recipe), **recipe["options"])


def _tasks(model: Any, training: Training, recipe: Recipe, fixed: Any) -> Tasks:
    head = head_of(model, ("classes", "numbers"))
    names = {"text": recipe["text"], "label": recipe["label"]}
    if head.task == "numbers":
        task = read_task(recipe["paths"], **names, numbers=True)
    else:
        task = read_task(recipe["paths"], **names, classes=head.labels)
    texts = [_text(model, text, place) for text, place in zip(task.texts, task.places)]
    train, held_out = permuted_split(len(texts), recipe["held_out"], training.seed)

    def part(items: Any) -> tuple[list[Any], Any]:
        return [texts[i] for i in items], task.labels[items]

    rest = part(held_out) if len(held_out) else None
    return Tasks(model, *part(train), training, rest, source=_source(recipe), **recipe["options"])


def _text(model: Any, text: str, place: str) -> Any:
    """The ids of a task's text, with the tokenizer's beginning where it has one."""
    tokenizer, size = model.tokenizer, model.config.block_size
    ids = tokenizer.encode(text, special="text")
    begin = tokenizer.begin_of_text
    if begin is not None:
        ids = np.concatenate([[tokenizer.specials[begin]], ids])
    if not 0 < len(ids) <= size:
        raise InputError(
            f"{place}: the text has {len(ids):,} tokens, expected 1 to block_size {size:,}: cut it"
        )
    return ids


def _split(
    items: Sequence[Any], recipe: Recipe, seed: int, groups: Sequence[Any] | None = None
) -> tuple[list[Any], list[Any]]:
    train, held_out = permuted_split(len(items), recipe["held_out"], seed, groups=groups)
    return [items[i] for i in train], [items[i] for i in held_out]


def _source(recipe: Recipe) -> str:
    return ", ".join(str(path) for path in recipe["paths"])


_COMMON: dict[str, Any] = {
    "warmup": 20,
    "schedule": "linear",
    "min_lr": 0.0,
    "eval_interval": 50,
    "save_interval": 100,
}
KINDS = {
    "sft": Kind(Training(lr=5e-4, batch_size=16, weight_decay=0.01, **_COMMON), 3.0, _responses),
    "classify": Kind(Training(lr=2e-4, batch_size=16, weight_decay=0.01, **_COMMON), 3.0, _tasks),
    "reward": Kind(Training(lr=2e-4, batch_size=16, weight_decay=0.01, **_COMMON), 1.0, _rewards),
    "dpo": Kind(Training(lr=1e-4, batch_size=16, weight_decay=0.0, **_COMMON), 1.0, _preferences),
}
