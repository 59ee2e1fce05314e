"""Pictures of runs and of models: enter here to ask what a log or a Trace looks like.

Functions take axes or a figure of matplotlib, extra [plot], and return what they drew into.
"""

from .attention_maps import attention
from .files import save, save_or_show
from .gradient_map import gradients
from .lines import curves, gradient_norm, learning_rate, loss, tokens_per_second
from .rewards import rewards
from .runs import Run, read
from .style import styled
from .table import table

__all__ = [
    "Run",
    "attention",
    "curves",
    "gradient_norm",
    "gradients",
    "learning_rate",
    "loss",
    "read",
    "rewards",
    "save",
    "save_or_show",
    "styled",
    "table",
    "tokens_per_second",
]
