"""The same model elsewhere, compared name by name: PyTorch modules, folders of transformers, llm.c's files, checkpoints."""

from .divergence import compare, first_divergence

__all__ = ["compare", "first_divergence"]
