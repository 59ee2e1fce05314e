"""From a model that writes to one that answers: enter here to ask how one is tuned."""

from .classify import Tasks, predictions
from .distill import Distillation
from .prefer import Preferences, margins
from .rewards import Rewards
from .sft import Responses
from .trained import frozen, trained_names

__all__ = [
    "Distillation",
    "Preferences",
    "Responses",
    "Rewards",
    "Tasks",
    "frozen",
    "margins",
    "predictions",
    "trained_names",
]
