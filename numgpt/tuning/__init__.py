"""From a model that writes to one that answers: enter here to ask how one is tuned."""

from .classify import Tasks
from .distill import Distillation
from .prefer import Preferences
from .rewards import Rewards
from .sft import Responses

__all__ = ["Distillation", "Preferences", "Responses", "Rewards", "Tasks"]
