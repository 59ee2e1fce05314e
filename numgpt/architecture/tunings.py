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
    the logits. compares: whether the model is compared with itself as it was at first. samples: whether it
    learns from responses of its own, which are rewarded, and epochs mean nothing.
    """

    training: Training
    epochs: float
    options: Mapping[str, Any]
    more: Mapping[str, Any]
    reads_text: bool
    compares: bool = False
    samples: bool = False

    @property
    def recipe(self) -> dict[str, Any]:
        """Every entry of a recipe, with its default."""
        return COMMON | dict(self.options) | dict(self.more)


def _training(
    lr: float, weight_decay: float = 0.01, batch_size: int = 16, eps: float = 1e-8, eval_interval: int = 50
) -> Training:
    return Training(
        batch_size=batch_size,
        lr=lr,
        min_lr=0.0,
        warmup=20,
        schedule="linear",
        weight_decay=weight_decay,
        eps=eps,
        eval_interval=eval_interval,
        save_interval=100,
    )


ITERATIONS = 200  # of sampling, rewarding and updating, unless told

# Of what samples: each prompt's own responses, compared with each other or judged by a critic.
_SAMPLING: dict[str, Any] = {
    "max_new_tokens": 64,
    "temperature": 1.0,
    "clip": 0.2,
    "batches": 1,
    "missing_end": None,
}
_GROUPS = _SAMPLING | {"group": 8, "clip_high": None, "epochs": 1, "reduction": None}
_REWARD: dict[str, Any] = {
    "reward": None,  # what leads to a reward model, or FILE.py:NAME
    "normalise_reward": False,
    "reward_shift": 0.0,
    "reward_scale": 1.0,
}


def _of_groups(advantage: str, kl: str) -> Tuning:
    """Responses that are compared with others to the same prompt."""
    return Tuning(
        _training(3e-4, weight_decay=0.0, batch_size=32, eval_interval=20),
        0.0,
        _GROUPS | {"advantage": advantage, "kl": kl, "beta": 0.01},
        _REWARD,
        reads_text=True,
        compares=True,
        samples=True,
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
        {"text": "text", "label": "label", "numbers": False, "pool": "last", "truncate": False},
        reads_text=False,
    ),
    "reward": Tuning(_training(2e-4), 1.0, {}, {"pool": "last", "truncate": False}, reads_text=False),
    "dpo": Tuning(
        _training(1e-4, weight_decay=0.0),
        1.0,
        {"loss": "dpo", "beta": 0.1, "label_noise": 0.0, "chosen_nll": 0.0},
        {"truncate": False},
        reads_text=True,
        compares=True,
    ),
    "kto": Tuning(
        _training(1e-4, weight_decay=0.0),
        1.0,
        {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        {"truncate": False},
        reads_text=True,
        compares=True,
    ),
    "ppo": Tuning(
        # ε as in Ziegler et al. 2019, whose Adam made larger steps at first than later.
        _training(3e-4, weight_decay=0.0, batch_size=128, eps=1e-5, eval_interval=20),
        0.0,
        _SAMPLING
        | {
            "group": 1,
            "epochs": 4,
            "beta": 0.02,
            "gamma": 1.0,
            "lam": 0.95,
            "value_weight": 0.1,
            "value_clip": 0.2,
            "whiten_rewards": False,
            "target_kl": None,
            "horizon": 10_000,
        },
        _REWARD,
        reads_text=True,
        compares=True,
        samples=True,
    ),
    "grpo": _of_groups("grpo", "k3"),
    "rloo": _of_groups("rloo", "reward"),
}
