"""The same model elsewhere, compared name by name: PyTorch modules, folders of transformers, llm.c's files,
checkpoints.
"""

from .divergence import compare, first_divergence
from .modules import GPT1, GPT2

__all__ = ["GPT1", "GPT2", "compare", "first_divergence"]
