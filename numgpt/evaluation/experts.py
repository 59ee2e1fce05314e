"""Which experts a text asks: how a mixture spreads its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import Ids, checked
from ..layers.record import Record
from ..layers.transformer import gpt
from ..model import checks, differentiable
from ..model.gpt import GPT

WIDTH = 12  # experts that a line of a table holds


@checked
def expert_load(model: GPT, tokens: Ids) -> dict[str, NDArray[Any]]:
    """The name of each router → each expert's share of what it sent, (E); a share is 1/E where all are even.

    Parameters
    ----------
    model : GPT
        Of one without experts nothing is returned: {}.
    tokens : integers (..., T)

    Examples
    --------
    >>> import numgpt
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, n_expert=2)
    >>> expert_load(numgpt.GPT(config, seed=0), [[0, 1, 2, 3]])  # both of two experts compute every token
    {'h.0.mlp.router': array([0.5, 0.5])}
    """
    ids = checks.beside(model.config, model.params, checks.tokens(model.config, tokens))
    record = Record(model.params, model.config, served=model.served)
    differentiable.forwards(model, record, gpt, (ids,))
    return {
        name: _shares(engine.home(logits), engine.home(chosen))
        for name, (logits, chosen) in record.told.items()
    }


def _shares(logits: Any, chosen: Any) -> NDArray[Any]:
    """How often each expert was chosen, to how often any was."""
    return np.bincount(chosen.reshape(-1), minlength=logits.shape[-1]) / chosen.size


def table(loads: dict[str, NDArray[Any]]) -> list[str]:
    """A line a router, and more where it has many experts: each expert's share in percent."""
    lines = []
    for name, shares in loads.items():
        cells = [f"{100 * share:5.1f} %" for share in shares]
        for begin in range(0, len(cells), WIDTH):
            lines.append(f"{name if begin == 0 else '':18}{' '.join(cells[begin : begin + WIDTH])}")
    return lines
