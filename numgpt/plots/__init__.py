"""Pictures of runs and of models: enter here to ask what a log or a Trace looks like.

Functions take axes or a figure of matplotlib, extra [plot], and return what they drew into.
"""

from .attention_maps import attention
from .attribution_bars import attribution, token_attribution
from .evaluations import positions, scores
from .files import save, save_or_show
from .gradient_map import gradients
from .layer_maps import heads, lens, patching, tracing
from .lines import curves, gradient_norm, learning_rate, loss, tokens_per_second
from .neuron_contexts import neurons
from .part_maps import ablation, eigenvalues, path_patching
from .rewards import rewards
from .runs import Run, read
from .style import styled
from .table import table

__all__ = [
    "Run",
    "ablation",
    "attention",
    "attribution",
    "curves",
    "eigenvalues",
    "gradient_norm",
    "gradients",
    "heads",
    "learning_rate",
    "lens",
    "loss",
    "neurons",
    "patching",
    "path_patching",
    "positions",
    "read",
    "rewards",
    "save",
    "save_or_show",
    "scores",
    "styled",
    "table",
    "token_attribution",
    "tokens_per_second",
    "tracing",
]
