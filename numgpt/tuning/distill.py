"""Distillation: a small model learns what a larger one predicts, and the text besides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..architecture.config import Training
from ..arguments import BelowOne, Count, Positive, Size, checked
from ..data.corpus import Corpus
from ..errors import InputError
from ..layers.transformer import gpt
from ..layers.tuning_losses import distilled
from ..model import differentiable
from ..model.gpt import GPT
from ..training.objective import Batch, Pretraining


class Distillation:
    """share τ² KL(teacher‖model) + (1 − share) surprise, over windows of a corpus (Hinton et al. 2015).

    The held-out loss is the surprise alone, so that it compares with a run without a teacher.

    Parameters
    ----------
    teacher : GPT
        With the corpus's tokenizer; it is not trained.
    corpus : Corpus
    training : Training
    block_size : int
    temperature : float
        τ: above 1 the teacher's less likely tokens count more.
    share : float
        That of the teacher, below 1.
    """

    @checked
    def __init__(
        self,
        teacher: GPT,
        corpus: Corpus,
        training: Training,
        block_size: Size,
        *,
        temperature: Positive = 2.0,
        share: BelowOne = 0.5,
    ) -> None:
        own = teacher.tokenizer
        if own is not None and own != corpus.tokenizer:
            raise InputError(
                "teacher: its tokenizer is not the corpus's, expected one for both: give prepare(…,"
                " tokenizer=teacher.tokenizer)"
            )
        if teacher.config.positions == "learned" and teacher.config.block_size < block_size:
            raise InputError(
                f"teacher: knows {teacher.config.block_size} positions, expected {block_size} as the model:"
                " choose a smaller block_size"
            )
        self.text = Pretraining(corpus, training, block_size)
        self.corpus, self.teacher = corpus, teacher
        self.layer = distilled(temperature, share)
        self.source, self.recipe = corpus.source, corpus.recipe
        self.digest = corpus.digest

    @checked
    def batch(self, step: Count, n: Count) -> Batch:
        """Pre-training's batch, with what the teacher predicts there."""
        batch = self.text.batch(step, n)
        tokens, targets, whole = batch.inputs
        taught = differentiable.value(self.teacher, gpt, (tokens,))
        inputs = tokens, targets, taught, np.ones(tokens.shape), float(whole)
        return Batch(inputs, self.layer, batch.count, of=batch.of)

    def held_out(self) -> Iterator[Batch]:
        """Pre-training's."""
        return self.text.held_out()
