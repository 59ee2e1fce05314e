"""Policy gradients without a critic: a response is as good as its reward beside those of its group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..architecture.config import Training
from ..arguments import AtLeastZero, Positive, Size, checked
from ..data import ChatTemplate, JinjaTemplate, Prompt
from ..errors import InputError
from ..layers.policy_losses import DISTANCES, policy
from ..model.gpt import GPT
from ..training.objective import Batch
from . import advantages as estimates
from .reinforce import Iteration, Part, Reinforcement
from .shared_prompts import shareable
from .trained import Fixed

# How the advantage of a response follows from the rewards of its group (prompts, G), or of all.
GROUPS: dict[str, Callable[..., Any]] = {
    "grpo": estimates.grpo,
    "dr_grpo": estimates.dr_grpo,
    "rloo": estimates.rloo,
    "reinforce++": lambda reward: estimates.reinforce_pp(reward, baseline=True),
}
REDUCTIONS = ("token", "sequence", "constant")
KLS = ("reward", *DISTANCES)


class PolicyGradient(Reinforcement):
    """Reinforcement without a critic: the advantage of a response is its reward beside those of its group.

        A = (r − mean) / (std + 1e-4)      grpo (Shao et al. 2024)
            r − mean                       dr_grpo (Liu et al. 2025)
            r − mean of the others         rloo (Kool et al. 2019; Ahmadian et al. 2024)
            r − mean, whitened over all    reinforce++ (Hu et al. 2025)

        loss = Σ w (−min(ρ A, clip(ρ, 1 ± ε) A) + β D)        ρ = how much likelier a token has become

    All tokens of a response have its advantage. A group whose rewards are all alike has none, and gives no
    gradient but that of D.

    Parameters
    ----------
    model : GPT
        The policy, with a tokenizer.
    prompts : sequence of data.Prompt
    reward : function (prompts, responses) -> numbers (N,)
        Of each response to its prompt; the text of a response is without its end.
    training : Training
        Its batch_size counts prompts in a micro-batch, each of which is answered `group` times.
    fixed : model
        The one that is not to be left, as numgpt.tuning.frozen gives it: D is the divergence from it.
    template : data.ChatTemplate or data.JinjaTemplate
    advantage : "grpo", "dr_grpo", "rloo" or "reinforce++"
    group : int
        Responses to a prompt, 2 or more.
    max_new_tokens : int
    temperature : float
        τ of sampling and of the loss.
    clip, clip_high : float
        ε below and above; clip_high is clip unless given. Nothing is clipped in an iteration of one step.
    beta : float
        β, the weight of the divergence; 0 lets the policy go where it will.
    kl : "k3", "k2", "rho_k3" or "reward"
        How the divergence counts: as a loss of each token, ρ-weighted for rho_k3; or as k1 of the whole
        response, taken from its reward, of which alone the gradient is that of the divergence of whole
        responses.
    reduction : "token", "sequence" or "constant", optional
        What the sum over tokens is divided by: their number; each response's own length, then their number;
        or max_new_tokens times their number, which favours no length. "sequence" for grpo, else "constant".
    epochs, batches : int
        An iteration goes `epochs` times through its responses, in `batches` steps each time.
    missing_end : float, optional
        The reward of a response that was cut before its end; that of its text unless given.

    Raises
    ------
    InputError
        For an option that is not known, a group of one, a prompt that is too long, a model with dropout, and
        later for a reward that is no finite number.
    """

    @checked
    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Prompt],
        reward: Callable[..., Any],
        training: Training,
        fixed: GPT | Fixed,
        *,
        template: ChatTemplate | JinjaTemplate,
        advantage: str = "grpo",
        group: Size = 8,
        max_new_tokens: Size = 64,
        temperature: Positive = 1.0,
        clip: Positive = 0.2,
        clip_high: Positive | None = None,
        beta: AtLeastZero = 0.01,
        kl: str = "k3",
        reduction: str | None = None,
        epochs: Size = 1,
        batches: Size = 1,
        missing_end: float | None = None,
        source: str = "prompts",
    ) -> None:
        reduction = reduction or ("sequence" if advantage == "grpo" else "constant")
        for name, value, known in (
            ("advantage", advantage, GROUPS),
            ("kl", kl, KLS),
            ("reduction", reduction, REDUCTIONS),
        ):
            if value not in known:
                raise InputError(f"PolicyGradient: {name} is {value!r}, expected one of {', '.join(known)}")
        if group == 1:
            raise InputError(
                "PolicyGradient: group is 1, expected 2 or more: a response is compared with others to its"
                " prompt; one alone needs the critic of PPO"
            )
        self.advantage, self.kl, self.reduction = advantage, kl, reduction
        self.clip, self.clip_high = clip, clip if clip_high is None else clip_high
        super().__init__(
            model,
            prompts,
            reward,
            training,
            fixed,
            template=template,
            group=group,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            beta=beta,
            epochs=epochs,
            batches=batches,
            missing_end=missing_end,
            source=source,
            words=(advantage, kl, reduction, self.clip, self.clip_high),
        )

    @property
    def _waits(self) -> bool:
        return self.per_iteration == 1 and not (self.kl == "reward" and self.beta)

    @property
    def _shares(self) -> bool:
        return self.group % 2 == 0 and all(shareable(m.config) for m in (self.model, self.fixed))

    def _advantages(self, begun: Iteration) -> list[Any]:
        """The advantage of each token of each micro-batch: that of its response."""
        reward = begun.rollout.reward
        if self.kl == "reward" and self.beta:
            apart = [(part.log_ratio * part.scored.weights).sum(-1) for part in begun.parts]
            reward = reward - self.beta * np.concatenate(apart)
        found = GROUPS[self.advantage](reward.reshape(-1, self.group)).reshape(-1)
        return [found[part.rows, None] * part.scored.weights for part in begun.parts]

    def _batch(self, part: Part, given: Any) -> Batch:
        weights, count = part.scored.weights, float(part.scored.weights.sum())
        N = len(weights)
        if self.reduction == "sequence":
            weights, count = weights / weights.sum(-1, keepdims=True), float(N)
        elif self.reduction == "constant":
            count = float(N * self.max_new_tokens)
        layer = policy(
            self.temperature,
            self.clip,
            self.clip_high,
            0.0 if self.kl == "reward" else self.beta,
            "k3" if self.kl == "reward" else self.kl,
            self._tell(part, self.clip, self.clip_high),
        )
        tokens, targets, places, visibility = part.scored.read()
        inputs = tokens, targets, weights, part.old, given, part.fixed, count, places
        return Batch(inputs, layer, count, visibility=visibility)
