"""What is trained and what is not: the parameters that tuning moves, and the model it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..architecture.additions import Head, LoRA, quantized_by
from ..architecture.config import Config, Training
from ..architecture.parameters import Flat
from ..arguments import checked
from ..layers.adapters import in_place
from ..model.gpt import GPT
from ..training import optimizer
from ..training.muon import Muon
from ..training.optim import AdamW


class Fixed(NamedTuple):
    """A model that stays as it is, for its log-probabilities."""

    config: Config
    params: Flat
    served: Mapping[str, Any]
    seed: int


@checked
def frozen(model: GPT) -> Fixed:
    """A model as it is now, whatever becomes of it.

    Where an adapter is trained, the model's own parameters stay: they are shared, and the adapter is left
    out. Else they are copied.
    """
    if has_adapter(model):
        base = {**model.replaced, **in_place(model.additions, model.config)}
        return Fixed(model.config, model.params, base, model.seed)
    return Fixed(model.config, model.params.astype(model.params.dtype), model.served, model.seed)


def has_adapter(model: Any) -> bool:
    """Whether a model has an adapter, which is trained then instead of its own parameters."""
    return any(isinstance(addition, LoRA) for addition in model.additions)


@checked
def trained_names(model: GPT, reads_text: bool = True, vocabulary: bool = False) -> list[str] | None:
    """The names of the parameters that tuning moves; None for all.

    Of a model with adapters those alone, and its head. reads_text: whether the loss reads the logits, without
    which an unembedding of its own has no gradient. vocabulary: whether the embedding moves beside an
    adapter, since it has rows for new tokens, which mean nothing yet.
    """
    has_head = any(isinstance(addition, Head) for addition in model.additions)
    unread = () if reads_text or model.config.tied else ("lm_head.",)
    names = [name for name in model.params.shapes if not name.startswith(unread)]
    if has_adapter(model):
        grows = vocabulary and quantized_by(model.additions) is None  # what is rounded has no new rows
        begins = (*(["score."] if has_head else []), *(["wte.", "lm_head."] if grows else []))
        return [n for n in names if n.endswith((".lora_a", ".lora_b")) or n.startswith(begins)]
    return names if unread else None


@checked
def optimizer_of(model: GPT, training: Training, names: Sequence[str] | None) -> AdamW | Muon:
    """The optimizer of training's settings, for the parameters of these names."""
    return optimizer.optimizer_of(model, training, names)
