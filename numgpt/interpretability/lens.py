"""The logit lens: what the model would say if each layer were its last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import checked
from ..errors import InputError
from ..layers.transformer import blocks_forward, unembedded_forward
from ..model.gpt import GPT
from .prompts import Few, answer_ids, token_rows
from .runs import Forwards, run, streams

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Lens:
    """What each layer's stream says of the next token.

    names (L + 1): of the streams, the embeddings first; the last is what the model itself says.
    ids (T), answers (T): the prompt, and what is asked at each position.
    kl (L + 1, T): KL(final ‖ lens) in nats. rank (L + 1, T): of the answer, 0 for the most likely.
    log_prob (L + 1, T): of the answer. top (L + 1, T, k): the most likely ids, the first first.
    """

    names: tuple[str, ...]
    ids: Array
    answers: Array
    kl: Array
    rank: Array
    log_prob: Array
    top: Array


@checked
def logit_lens(model: GPT, prompt: Any, answer: Any = None, *, k: Few = 5) -> Lens:
    """The last norm and the unembedding, read off the residual stream after every layer.

        logits_l = ln_f(x_l) W_U        x_l the stream after l layers, x_L the model's own

    Parameters
    ----------
    model : GPT
    prompt : str or integers (T,)
    answer : str, int, or a sequence of them, optional
        One token, asked at every position, or one for each; the model's own most likely token unless given.
    k : int
        How many of the most likely tokens to name.

    Returns
    -------
    Lens

    Notes
    -----
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens". What it does not show: what a layer
    knows. The last norm and the unembedding were trained for the last stream alone, so a layer that writes in
    another basis looks as if it said nothing (Belrose et al. 2023, the tuned lens); and a token that the lens
    names need not be used by what follows.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import logit_lens
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=2, n_head=1, n_embd=4))
    >>> lens = logit_lens(model, [0, 1, 2])
    >>> lens.names, lens.kl.shape, lens.rank[-1].tolist(), lens.kl[-1].tolist()
    (('drop', 'h.0', 'h.1'), (3, 3), [0, 0, 0], [0.0, 0.0, 0.0])
    """
    ids = token_rows("logit_lens", model, prompt)
    if len(ids) > 1:
        raise InputError(f"logit_lens: there are {len(ids)} prompts, expected one")
    values = run(model, ids, -1, streams(model)).value
    logp = np.stack([_log_probs(model, values[name])[0] for name in streams(model)])
    final = logp[-1]
    answers = _answers(model, answer, final)
    log_prob = np.take_along_axis(logp, answers[None, :, None], -1)[..., 0]
    rank = (logp > log_prob[..., None]).sum(-1)
    kl = (np.exp(final) * (final - logp)).sum(-1)
    top = np.argsort(-logp, axis=-1, kind="stable")[..., : min(k, logp.shape[-1])]
    return Lens(tuple(streams(model)), ids[0], answers, kl, rank, log_prob, top)


def _log_probs(model: GPT, x: Any) -> Array:
    """log softmax of what the last norm and the unembedding make of a stream, in float64.

    Only those run: the model's own layers, from the one after the last block on.
    """
    record = Forwards(model.params, model.config, served=model.served)
    with engine.session(model.params.dtype):
        logits = unembedded_forward(record, blocks_forward(record, x, first=model.config.n_layer))
    logits = engine.home(logits).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def _answers(model: GPT, answer: Any, final: Array) -> NDArray[np.int64]:
    """What is asked at each position."""
    if answer is None:
        return final.argmax(-1)
    ids = answer_ids("logit_lens", model, answer)
    if len(ids) not in (1, len(final)):
        raise InputError(
            f"logit_lens: there are {len(ids)} answers, expected one, or one for each of {len(final)} tokens"
        )
    return np.broadcast_to(np.array(ids, np.int64), len(final))
