"""Direct logit attribution: the logits as a sum of what each part of the model wrote to the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Config
from ..arguments import checked
from ..errors import InputError
from ..model.gpt import GPT
from ..ops.positions import POSITIONS, turns
from .metrics import AnswerMetric, expect_place, logit_difference
from .prompts import answer_ids, token_rows
from .runs import run, stream
from .sites import layer_config

Array = NDArray[np.float64]
# Config.norm_position → under which names a block's two parts add to the stream.
ADDED = {
    "pre": ("attn", "mlp"),
    "parallel": ("attn", "mlp"),
    "parallel2": ("attn", "mlp"),
    "out": ("ln_1", "ln_2"),
    "both": ("ln_1_out", "ln_2_out"),
}


@dataclass(frozen=True, eq=False)
class DirectAttribution:
    """A logit, or a difference of two, as a sum.

    names (n): the parts, such as "wte", "h.0.attn", with heads "h.0.attn.heads.3" and "h.0.attn.c_proj.bias",
    "h.1.mlp", "ln_f.bias". value (n, N): what each gives to each text's logits. logits (N): what the model
    itself computed. ids (N, T), at: the prompts, and the position.
    """

    names: tuple[str, ...]
    value: Array
    logits: Array
    ids: NDArray[np.int64]
    at: int

    @property
    def missing(self) -> Array:
        """What the sum lacks: rounding, for the sum is exact."""
        found: Array = self.logits - self.value.sum(0)
        return found


@checked
def direct_logit_attribution(
    model: GPT, prompt: Any, answer: Any, wrong: Any = None, *, at: int = -1, by_head: bool = False
) -> DirectAttribution:
    """What each part's own output adds to a logit, or to a difference, with the last norm's scale held.

        x_L = Σ_c c                                  the stream is the sum of what was written to it
        z = ln_f(x_L) · u = Σ_c (c − ⟨c⟩) · (γ ⊙ u) / σ + β · u        u = u_answer − u_wrong

    σ is the last norm's scale in this run, taken as a constant: then the norm is linear and the sum exact.
    RMSNorm has no ⟨c⟩ and no β. By head, c_proj's output is split: Σ_h z_h W_O,h, and its bias.

    Parameters
    ----------
    model : GPT
    prompt : str or ids, or a sequence of them
    answer, wrong : str, int, or a sequence of them, one for each prompt
        One token each; without wrong the logit of answer alone, of which what is the same for all tokens is
        a part.
    at : int
        The position whose logits are asked.
    by_head : bool
        Whether attention is split into heads.

    Returns
    -------
    DirectAttribution

    Raises
    ------
    InputError
        Where logits are no sum: where they are capped, or where each sum of a block is normalised (GPT-1).

    Notes
    -----
    Source: Elhage et al. 2021; Wang et al. 2022. What it does not show: what a part does through later parts,
    which read it; and that σ depends on every part, so that without a part the logits change by something
    else than its share.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import direct_logit_attribution
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=8)
    >>> model = numgpt.GPT(config, dtype="float64")
    >>> found = direct_logit_attribution(model, [0, 1, 2], 3, 1)
    >>> found.names, bool(abs(found.missing).max() < 1e-12)
    (('wte', 'wpe', 'h.0.attn', 'h.0.mlp', 'ln_f.bias'), True)
    """
    model = model.plain()
    who, config = "direct_logit_attribution", model.config
    _expect_a_sum(who, model, by_head)
    ids = token_rows(who, model, prompt)
    metric = _metric(who, model, answer, wrong, at)
    expect_place(who, metric, ids)
    keep = [*_embedding_names(model), *_block_names(model, by_head), stream(config.n_layer)]
    found = run(model, ids, at, list(dict.fromkeys(keep)))
    values = {name: engine.home(value) for name, value in found.value.items()}
    written = _written(model, values, at, by_head)
    direction, constants = _direction(model, metric, values[stream(config.n_layer)][:, at])
    parts = {name: np.einsum("nc,nc->n", array, direction) for name, array in written.items()} | constants
    rows = np.arange(len(ids))
    logits = found.logits.astype(np.float64)
    answers = _ids(metric.answer, len(ids))
    difference = logits[rows, answers]
    if metric.wrong is not None:
        difference = difference - logits[rows, _ids(metric.wrong, len(ids))]
    return DirectAttribution(tuple(parts), np.stack(list(parts.values())), difference, ids, at)


def _metric(who: str, model: GPT, answer: Any, wrong: Any, at: int) -> AnswerMetric:
    """What is asked: a difference, or where wrong is None one logit."""
    if wrong is not None:
        return logit_difference(model, answer, wrong, at)
    return AnswerMetric("logit", answer_ids(who, model, answer), None, at)


def _expect_a_sum(who: str, model: GPT, by_head: bool) -> None:
    config = model.config
    served = [name for name in model.replaced if name.endswith((".out", ".mid"))]
    if served:
        raise InputError(
            f"{who}: another sum is served at {served[0]}, as in a steered model, expected the model's own:"
            " what it adds is no part of the model"
        )
    if config.norm_position not in ADDED:
        raise InputError(
            f"{who}: the model normalises each sum of a block, norm_position {config.norm_position}, expected"
            " a stream that is a sum of what was written to it"
        )
    if config.final_softcap is not None:
        raise InputError(
            f"{who}: the logits are capped at {config.final_softcap}, expected logits that are a sum: a cap"
            " has no share for each part"
        )
    if by_head and ADDED[config.norm_position][0] != "attn":
        raise InputError(
            f"{who}: a norm stands between the heads and the stream, norm_position {config.norm_position},"
            " expected none for by_head: ask for whole layers"
        )
    served = [name for name in model.served if name.endswith("attn.c_proj")]
    if by_head and served:
        raise InputError(
            f"{who}: {served[0]} is no plain matrix, expected one for by_head: take model.merged()"
        )


def _embedding_names(model: GPT) -> list[str]:
    """The names of the stream before the first block, in its steps, as far as the model has them."""
    config = model.config
    if config.embed_norm:
        return ["ln_emb"]
    names = ["embed_scale" if config.embed_scale != 1 else "wte"]
    adds = not turns(config.positions) and POSITIONS[config.positions] is not None
    return [*names, "drop"] if adds else names


def _block_names(model: GPT, by_head: bool) -> list[str]:
    attention, mlp = ADDED[model.config.norm_position]
    names = (attention, "attn.heads", mlp) if by_head else (attention, mlp)
    return [f"h.{layer}.{name}" for layer in range(model.config.n_layer) for name in names]


def _written(model: GPT, values: dict[str, Any], at: int, by_head: bool) -> dict[str, Array]:
    """What each part wrote to the stream at a position: name → (N, C)."""
    config = model.config
    read = {name: np.asarray(values[name][:, at], np.float64) for name in values}
    names = _embedding_names(model)
    written = {"ln_emb" if config.embed_norm else "wte": read[names[0]]}
    if len(names) == 2:
        written["wpe"] = read[names[1]] - read[names[0]]
    attention, mlp = ADDED[config.norm_position]
    for layer in range(config.n_layer):
        if by_head:
            written |= _by_head(model, layer, read[f"h.{layer}.attn.heads"])
        else:
            written[f"h.{layer}.{attention}"] = read[f"h.{layer}.{attention}"]
        written[f"h.{layer}.{mlp}"] = read[f"h.{layer}.{mlp}"]
    return written


def _by_head(model: GPT, layer: int, mix: Array) -> dict[str, Array]:
    """c_proj's output, split: what each head's result becomes, and the bias.  mix (N, HD)"""
    config, name = layer_config(model.config, layer), f"h.{layer}.attn"
    D = config.head_size
    weight = engine.home(model.params[f"{name}.c_proj.weight"]).astype(np.float64) * config.residual_scale
    heads = [slice(h * D, (h + 1) * D) for h in range(config.n_head)]
    found = {f"{name}.heads.{h}": mix[:, part] @ weight[part] for h, part in enumerate(heads)}
    bias = model.params.get(f"{name}.c_proj.bias")
    if bias is not None:
        scaled = engine.home(bias).astype(np.float64) * config.residual_scale
        found[f"{name}.c_proj.bias"] = np.broadcast_to(scaled, (len(mix), len(scaled)))
    return found


def _direction(model: GPT, metric: AnswerMetric, x: Any) -> tuple[Array, dict[str, Array]]:
    """What the stream is multiplied by with the norm's scale held (N, C), and what biases give, by name."""
    config, params, N = model.config, model.params, len(x)
    table = params["wte.weight" if config.tied else "lm_head.weight"]
    gain, shift, head = (params.get(name) for name in ("ln_f.weight", "ln_f.bias", "lm_head.bias"))
    signs = [(1.0, _ids(metric.answer, N))]
    if metric.wrong is not None:
        signs.append((-1.0, _ids(metric.wrong, N)))
    u = np.add.reduce([sign * _rows(table, ids) for sign, ids in signs]) * config.logit_scale
    constants = {}
    if shift is not None:
        constants["ln_f.bias"] = u @ engine.home(shift).astype(np.float64)
    if head is not None and config.has_bias("head"):
        constants["lm_head.bias"] = (
            np.add.reduce([s * _rows(head, ids) for s, ids in signs]) * config.logit_scale
        )
    u = u if gain is None else u * engine.home(gain).astype(np.float64)
    return u_over_scale(config, u, np.asarray(x, np.float64)), constants


def u_over_scale(config: Config, u: Array, x: Array) -> Array:
    """(u − ⟨u⟩)/σ, which for a sum of parts c gives what Σ (c − ⟨c⟩)·u/σ does; RMSNorm: u/σ.

    Because (c − ⟨c⟩)·u = c·(u − ⟨u⟩): to take the mean away is its own transpose.
    """
    if config.norm == "rmsnorm":
        centred = x
    else:
        centred, u = x - x.mean(-1, keepdims=True), u - u.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True) + config.layer_norm_epsilon
    found: Array = u / np.sqrt(variance)
    return found


def _rows(table: Any, ids: NDArray[np.int64]) -> Array:
    found: Array = engine.home(table[engine.beside(ids, table)]).astype(np.float64)
    return found


def _ids(answers: tuple[int, ...], N: int) -> NDArray[np.int64]:
    return np.broadcast_to(np.array(answers, np.int64), N)
