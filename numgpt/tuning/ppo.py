"""PPO with a critic: how good a token was is told from what a head expected before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import engine
from ..architecture.config import Training
from ..arguments import AtLeastZero, FromZeroToOne, Positive, Size, checked
from ..data import ChatTemplate, JinjaTemplate, Prompt
from ..errors import InputError
from ..layers.policy_losses import logprobs_and_values, policy_and_values
from ..model import differentiable
from ..model.gpt import GPT
from ..ops import whiten
from ..training.objective import Batch
from .advantages import adaptive_beta, gae
from .classify import head_of
from .reinforce import Iteration, Part, Reinforcement
from .rollouts import Rollout, Scored
from .trained import Fixed


class PPO(Reinforcement):
    """Proximal policy optimisation (Schulman et al. 2017), as Ziegler et al. 2019 made it write text.

        r_t = −β k1_t, and the response's reward besides at its last token
        A   = GAE of r and the values V, whitened over a step
        loss = Σ w (−min(ρ A, clip(ρ, 1 ± ε) A) + value_weight · ½ max((V − R)², (V_c − R)²)) / Σ w

    The values are those of a head on the policy itself, which shares all but its last layer with it.

    Parameters
    ----------
    model : GPT
        The policy, with a tokenizer and a Head(task="value", pool="none").
    prompts, reward, training, fixed, template, group, max_new_tokens, temperature, missing_end
        As of PolicyGradient; a group of one will do.
    clip, value_clip : float
        ε of the ratio, and how far a value may move at once.
    value_weight : float
    beta : float
        β, the weight of the divergence from the fixed model, k1 of each token, within its reward.
    target_kl : float, optional
        Nats a response; β then grows or shrinks until the divergence is this. It stays unless given.
    horizon : int
        Responses after which such a β may have changed by a fifth of itself or so.
    gamma, lam : float
        γ and λ of GAE.
    whiten_rewards : bool
        Whether the rewards of an iteration's tokens are scaled to variance 1, their mean kept.
    epochs, batches : int
        An iteration goes `epochs` times through its responses, in `batches` steps each time.

    Raises
    ------
    InputError
        For a model without such a head, and as PolicyGradient.
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
        group: Size = 1,
        max_new_tokens: Size = 64,
        temperature: Positive = 1.0,
        clip: Positive = 0.2,
        value_clip: Positive = 0.2,
        value_weight: AtLeastZero = 0.1,
        beta: AtLeastZero = 0.02,
        target_kl: Positive | None = None,
        horizon: Size = 10_000,
        gamma: FromZeroToOne = 1.0,
        lam: FromZeroToOne = 0.95,
        whiten_rewards: bool = False,
        epochs: Size = 4,
        batches: Size = 1,
        missing_end: float | None = None,
        source: str = "prompts",
    ) -> None:
        head_of(model, ("value",))
        self.clip, self.value_clip, self.value_weight = clip, value_clip, value_weight
        self.target_kl, self.horizon = target_kl, horizon
        self.gamma, self.lam, self.whiten_rewards = gamma, lam, whiten_rewards
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
            words=(clip, value_clip, value_weight, target_kl, horizon, gamma, lam, whiten_rewards),
        )

    def state(self) -> dict[str, float]:
        """What changes in a run besides the model: β."""
        return {"beta": self.beta}

    @checked
    def load_state(self, entries: Mapping[str, Any]) -> None:
        """Take over what state() gave."""
        beta = entries.get("beta")
        if not isinstance(beta, float | int) or not 0 <= beta < np.inf:
            raise InputError(f"the run's state: beta is {beta!r}, expected a number, 0 or above")
        self.beta = float(beta)

    def _of_policy(self, scored: Scored) -> tuple[Any, Any]:
        layer = logprobs_and_values(self.temperature)
        found: Any = differentiable.value(self.model, layer, (scored.inputs, scored.targets))
        logp, values = map(engine.home, found)
        return np.array(logp), np.array(values, np.float64)

    def _advantages(self, begun: Iteration) -> list[Any]:
        """(advantages, returns) of each micro-batch's tokens, the advantages whitened over a step."""
        parts = begun.parts
        rewards = [self._of_tokens(begun.rollout, part) for part in parts]
        weights = [part.scored.weights for part in parts]
        if self.whiten_rewards:
            rewards = whitened(rewards, weights, shift_mean=False)
        values: list[Any] = [part.values for part in parts]
        found = [
            gae(r, v, w, begun.rollout.ended[part.rows], gamma=self.gamma, lam=self.lam)
            for part, r, v, w in zip(parts, rewards, values, weights)
        ]
        advantages, returns = [pair[0] for pair in found], [pair[1] for pair in found]
        self.of_values = _judged(values, returns, weights)
        n = self.training.accumulate
        steps = [slice(begin, begin + n) for begin in range(0, len(parts), n)]
        flat = [a for some in steps for a in whitened(advantages[some], weights[some])]
        return list(zip(flat, returns))

    def _of_tokens(self, rollout: Rollout, part: Part) -> Any:
        """The reward of each token: what it costs to differ, and at the last one the response's own."""
        rewards = -self.beta * part.log_ratio * part.scored.weights
        last = rollout.first[part.rows] + rollout.length[part.rows] - 2  # where the last token is the target
        rewards[np.arange(len(last)), last] += rollout.reward[part.rows]
        return rewards

    def _measure(self, begun: Iteration) -> None:
        """As of all, what the critic knew, and β: that of the next iteration follows from the divergence."""
        super()._measure(begun)
        self.measures |= self.of_values | {"beta": self.beta}
        if self.target_kl is not None:
            n = len(begun.responses)
            self.beta = adaptive_beta(self.beta, self.measures["kl"], self.target_kl, self.horizon, n)

    def _batch(self, part: Part, given: Any) -> Batch:
        weights, count = part.scored.weights, float(part.scored.weights.sum())
        tell = self._tell(part, self.clip, self.clip)
        layer = policy_and_values(self.temperature, self.clip, self.value_clip, self.value_weight, tell)
        scored, (advantages, returns) = part.scored, given
        known = part.old, advantages, part.values, returns
        return Batch((scored.inputs, scored.targets, weights, *known, count), layer, count)


def whitened(arrays: Sequence[Any], weights: Sequence[Any], shift_mean: bool = True) -> list[Any]:
    """Arrays as one, whitened over all that counts, each in its own shape again."""
    ends = np.cumsum([a.size for a in arrays])[:-1]
    whole = whiten(
        np.concatenate([a.ravel() for a in arrays]),
        np.concatenate([w.ravel() for w in weights]),
        shift_mean=shift_mean,
    )
    return [part.reshape(a.shape) for part, a in zip(np.split(whole, ends), arrays)]


def _judged(values: Sequence[Any], returns: Sequence[Any], weights: Sequence[Any]) -> dict[str, float]:
    """How much of what came the critic knew: 1 is all, 0 as much as the mean knows, below 0 less."""
    v, came = (np.concatenate([x[w > 0] for x, w in zip(xs, weights)]) for xs in (values, returns))
    spread = came.var()
    known = 1 - (came - v).var() / spread if spread > 0 else 0.0
    return {"explained_variance": float(known), "value_loss": float(0.5 * ((v - came) ** 2).mean())}
