"""What a head could do whatever the text: its QK and OV circuits, read off the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import Count, checked
from ..errors import InputError
from ..model.gpt import GPT
from . import sites

Array = NDArray[np.float64]
Between = Literal["stream", "tokens"]


@dataclass(frozen=True, eq=False)
class Circuit:
    """A matrix of low rank, left right.

    kind: "QK" or "OV". layer, head. left (n, D), right (D, n): n = C between streams, V between tokens.
    """

    kind: str
    layer: int
    head: int
    left: Array
    right: Array

    @property
    def matrix(self) -> Array:
        """The whole matrix (n, n)."""
        found: Array = self.left @ self.right
        return found

    @property
    def eigenvalues(self) -> NDArray[np.complex128]:
        """Its D eigenvalues that need not be 0, the largest first; those of right left, which is (D, D).

        Because left right v = λ v gives right left (right v) = λ (right v).
        """
        small = self.right @ self.left
        if not np.isfinite(small).all():
            raise InputError(
                f"eigenvalues: the {self.kind} circuit of layer {self.layer}, head {self.head} holds NaN or"
                " infinity, expected finite numbers"
            )
        found = np.linalg.eigvals(small).astype(np.complex128)
        return found[np.argsort(-abs(found), kind="stable")]

    @property
    def positive_share(self) -> float:
        """Re Σ λ / Σ |λ|: 1 where all eigenvalues are positive reals, −1 where all are negative.

        Of the OV circuit between tokens it is the copying score; of the QK circuit, whether a token attends
        to its own kind (Elhage et al. 2021).
        """
        found = self.eigenvalues
        size = float(abs(found).sum())
        return float(found.sum().real) / size if size > 0 else float("nan")


@checked
def qk_circuit(
    model: GPT, layer: Count, head: Count, between: Between = "tokens", *, fold: bool = True
) -> Circuit:
    """Which tokens a head would attend to: the score of each query with each key, before scale and softmax.

        W_QK = W_Q W_Kᵀ (C, C)        between tokens: E W_Q W_Kᵀ Eᵀ (V, V)        row: query, column: key

    Parameters
    ----------
    model : GPT
    layer, head : int
        Of grouped heads, head h reads the keys of head h // G.
    between : "tokens" or "stream"
    fold : bool
        Whether the weights of the norm before it are multiplied in.

    Returns
    -------
    Circuit

    Notes
    -----
    Source: Elhage et al. 2021. What it does not show: what comes between the embedding and the head, which in
    all layers but the first is most of the stream; the norm's scale and mean; biases; and positions: rotary
    ones turn queries and keys, so that this is their score at one and the same place.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import qk_circuit
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=8))
    >>> circuit = qk_circuit(model, 0, 1)
    >>> circuit.matrix.shape, circuit.eigenvalues.shape
    ((5, 5), (4,))
    """
    model = model.plain()
    query, key, _, _ = _weights("qk_circuit", model, layer, head, fold)
    left, right = query, key.T
    if between == "tokens":
        table = _embedding(model)
        left, right = table @ left, right @ table.T
    return Circuit("QK", layer, head, left, right)


@checked
def ov_circuit(
    model: GPT, layer: Count, head: Count, between: Between = "tokens", *, fold: bool = True
) -> Circuit:
    """What a head would write, for each token that it attends to.

        W_OV = W_V W_O (C, C)        between tokens: E W_V W_O U (V, V)        row: read, column: its logit

    Parameters
    ----------
    model, layer, head, between
        As in qk_circuit; of grouped heads, head h reads the values of head h // G.
    fold : bool
        Whether the weights of the norms before it and before the unembedding are multiplied in.

    Returns
    -------
    Circuit

    Notes
    -----
    Source: Elhage et al. 2021. What it does not show: whether the head ever attends to such a token, and what
    later layers make of what it writes.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import ov_circuit
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=8))
    >>> -1 <= ov_circuit(model, 0, 0).positive_share <= 1
    True
    """
    model = model.plain()
    _, _, value, out = _weights("ov_circuit", model, layer, head, fold)
    left, right = value, out
    if between == "tokens":
        table = model.params["wte.weight" if model.config.tied else "lm_head.weight"]
        last = _float64(table)
        if fold and "ln_f.weight" in model.params:
            last = last * _float64(model.params["ln_f.weight"])
        left, right = _embedding(model) @ left, right @ last.T
    return Circuit("OV", layer, head, left, right)


@checked
def copying_scores(model: GPT, *, fold: bool = True) -> Array:
    """Of each head, how far what it reads is what it makes more likely: Re Σ λ / Σ |λ| of its OV circuit.

        (L, H), NaN where a layer has fewer heads; 1: all eigenvalues between tokens are positive

    Source: Elhage et al. 2021. What it does not show: that a head copies anything, for it may never attend to
    what it would copy; and a positive trace is also that of a head which makes likely what is alike.
    """
    model = model.plain()
    sites.expect_layers("copying_scores", model.config)
    found = np.full((model.config.n_layer, sites.most_heads(model.config, sites.SITES["heads"])), np.nan)
    for layer in range(model.config.n_layer):
        for head in range(sites.layer_config(model.config, layer).n_head):
            found[layer, head] = ov_circuit(model, layer, head, fold=fold).positive_share
    return found


def _weights(who: str, model: GPT, layer: int, head: int, fold: bool) -> tuple[Array, Array, Array, Array]:
    """W_Q, W_K, W_V (C, D) and W_O (D, C) of a head."""
    sites.expect_head(who, model.config, layer, head)
    for name in ("c_attn", "c_proj"):
        if f"h.{layer}.attn.{name}" in model.served:
            raise InputError(f"{who}: another op is served at h.{layer}.attn.{name}, expected a matrix there")
    config = sites.layer_config(model.config, layer)
    D, H, K = config.head_size, config.n_head, config.kv_heads
    own = head // (H // K)
    packed = _float64(model.params[f"h.{layer}.attn.c_attn.weight"])
    gain = model.params.get(f"h.{layer}.ln_1.weight")
    reads_norm = model.config.norm_position in ("pre", "both", "parallel", "parallel2")
    if fold and gain is not None and reads_norm:
        packed = _float64(gain)[:, None] * packed
    query, key, value = (packed[:, n * D : (n + 1) * D] for n in (head, H + own, H + K + own))
    out = _float64(model.params[f"h.{layer}.attn.c_proj.weight"])[head * D : (head + 1) * D]
    return query, key, value, out


def _embedding(model: GPT) -> Array:
    """E (V, C), as the stream has it."""
    return _float64(model.params["wte.weight"]) * model.config.embed_scale


def _float64(array: Any) -> Array:
    found: Array = engine.home(array).astype(np.float64)
    return found
