"""The same model elsewhere, compared name by name: enter here to ask where two models part, and why.

Elsewhere is a PyTorch module, a folder of transformers, a file of llm.c, or another checkpoint.
"""

from .divergence import compare, first_divergence
from .modules import GPT1, GPT2
from .reference import reference
from .settings import compare_settings

__all__ = ["GPT1", "GPT2", "compare", "compare_settings", "first_divergence", "reference"]
