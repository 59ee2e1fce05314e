"""Tunings: what a recipe of each kind holds by default, as data; numgpt.tuning makes objectives of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .additions import LoRA
from .config import Training

# What every recipe has. lora is the rank: None trains the whole model.
COMMON: dict[str, Any] = {
    "model": "",
    "paths": [],
    "held_out": 0.1,
    "template": None,
    "lora": None,
    "lora_alpha": None,
    "lora_targets": list(LoRA().targets),
    "rslora": False,
    "vocabulary": False,  # whether the embedding is trained beside an adapter, since it has new tokens
}


class Tuning(NamedTuple):
    """A way to tune: the defaults of its settings, and of its recipe.

    options: the entries that its objective's class takes. more: others. reads_text: whether the loss reads
    the logits.
    """

    training: Training
    epochs: float
    options: Mapping[str, Any]
    more: Mapping[str, Any]
    reads_text: bool

    @property
    def recipe(self) -> dict[str, Any]:
        """Every entry of a recipe, with its default."""
        return COMMON | dict(self.options) | dict(self.more)


def _training(lr: float, weight_decay: float = 0.01) -> Training:
    return Training(
        batch_size=16,
        lr=lr,
        min_lr=0.0,
        warmup=20,
        schedule="linear",
        weight_decay=weight_decay,
        eval_interval=50,
        save_interval=100,
    )


TUNINGS = {
    "sft": Tuning(
        _training(5e-4),
        3.0,
        {"pack": True, "reduction": "token", "smoothing": 0.0, "truncate": False},
        {},
        reads_text=True,
    ),
    "classify": Tuning(
        _training(2e-4),
        3.0,
        {"text_weight": 0.0},
        {"text": "text", "label": "label", "numbers": False, "pool": "last"},
        reads_text=False,
    ),
    "reward": Tuning(_training(2e-4), 1.0, {}, {"pool": "last"}, reads_text=False),
    "dpo": Tuning(
        _training(1e-4, weight_decay=0.0),
        1.0,
        {"loss": "dpo", "beta": 0.1, "label_noise": 0.0, "chosen_nll": 0.0},
        {},
        reads_text=True,
    ),
}
