"""A policy that learns from rewards: PPO's surrogate, and what a token says of the distance to a fixed model.

All read log-probabilities of tokens that were sampled, and give a number a token. With d = logp − fixed, the
tokens drawn from the policy p and fixed by q, the mean of d is KL(p‖q). An estimator of it has a value and,
where it is a loss, a gradient, and these are two questions: k1's value is right and its gradient nothing.
"""

import numpy as np

from .activations import FAR, bounded
from .op import Op
from .rounded import rounded_once


def exp_times(x, factor):
    """exp(x) · factor. Where exp is beyond all numbers that is ±∞, without a warning, or 0 if factor is 0."""
    beyond = x.real > np.log(np.finfo(x.dtype).max)
    product = np.exp(np.where(beyond, 0, x)) * factor
    return np.where(beyond & (factor != 0), np.copysign(np.inf, factor.real), product)


@rounded_once
def ppo_forward(logp, old, advantages, *, clip=0.2, clip_high=None):
    """What a step is worth to a policy that may not move far from the one that sampled: PPO's surrogate.

        y = −min(ρ A, clip(ρ, 1 − ε, 1 + ε_high) A)        ρ = exp(logp − old)

    logp, old: a token's log-probability by the policy, and by the one that sampled it. The advantage A says
    by how much the token did better than was expected. ε is clip; so is ε_high, unless clip_high is given.
    Until the first step of an optimizer ρ = 1 and y = −A: the value means little, the gradient counts.
    logp, old, advantages (...) → y (...).
    Sources: Schulman et al. 2017; of ε_high, Yu et al. 2025 (DAPO).
    """
    lowest, highest = 1 - clip, 1 + (clip if clip_high is None else clip_high)
    ratio = np.exp(bounded(logp - old))
    above = (advantages.real > 0) & (ratio.real > highest)
    below = (advantages.real < 0) & (ratio.real < lowest)
    held = above | below
    clipped = np.where(above, highest, lowest) * advantages
    y = -np.where(held, clipped, exp_times(logp - old, advantages))
    return y, (y, held)


@rounded_once
def ppo_backward(dy, saved):
    """Gradients of ppo_forward with respect to logp; old and advantages are constants.

        dlogp = −dy ρ A = dy y        because ∂ρ/∂logp = ρ
                0                     where A > 0 and ρ > 1 + ε_high, or A < 0 and ρ < 1 − ε,
                                      because there the minimum is the clipped one, in which no ρ is left

    In words: the gradient of the policy, until a token has moved far enough to the side that pays. One that
    moved to the wrong side is never held.
    """
    y, held = saved
    return np.where(held, 0, dy * y), None, None


ppo = Op(
    "..., ...!, ...! -> ...",
    ppo_forward,
    ppo_backward,
    variants={"wide": {"clip": 0.9}, "higher": {"clip": 0.1, "clip_high": 1.5}},
    saves="y ...:bool",
)


def k1_forward(logp, fixed):
    """How much likelier the policy holds a token than a fixed model does; on average that is KL(p‖q).

        y = d        d = logp − fixed

    Unbiased, and negative for many a token. It belongs into the reward, as a constant: there the policy's
    gradient makes ∇KL(p‖q) of it. As a loss it does nothing, because E_p[∇d] = Σ p ∇ ln p = ∇ Σ p = 0.
    logp, fixed (...) → y (...).  Source: Schulman 2020.
    """
    return logp - fixed, ()


def k1_backward(dy, saved):
    """Gradients of k1_forward with respect to logp and fixed (none: it is a constant).

        dlogp = dy        because ∂d/∂logp = 1

    In words: every token that came is pushed alike, which on average pushes nothing.
    """
    () = saved
    return dy, None


k1 = Op("..., ...! -> ...", k1_forward, k1_backward, saves="")


@rounded_once
def k2_forward(logp, fixed):
    """Half the square of how the two models differ about a token: near each other, on average KL(p‖q).

        y = d²/2        d = logp − fixed

    Biased as a value, but right as a loss, because E_p[d ∇d] = Σ p d ∇ ln p = ∇KL(p‖q): of one token, whose
    context is given. Of sequences it is k2 of their summed log-probabilities that has the gradient of the KL;
    what k2 of each token leaves out is how a token changes the contexts of those behind it.
    logp, fixed (...) → y (...).  Source: Schulman 2020.
    """
    d = logp - fixed
    return 0.5 * d * d, (logp, fixed)


@rounded_once
def k2_backward(dy, saved):
    """Gradients of k2_forward with respect to logp and fixed (none: it is a constant).

        dlogp = dy d        because y is half a square

    In words: a spring between the two models.
    """
    logp, fixed = saved
    return dy * (logp - fixed), None


k2 = Op("..., ...! -> ...", k2_forward, k2_backward, saves="logp fixed")


@rounded_once
def k3_forward(logp, fixed, old=None):
    """An estimate of KL(p‖q) from a token that is unbiased and never negative; GRPO's loss has it.

        y = ρ (exp(−d) − 1 + d)        d = logp − fixed
        ρ = exp(logp − old), or 1 where old is not given

    exp(−d) − 1 is 0 on average: it changes no mean, and takes from each token what it errs by. As a loss and
    without old it has the gradient of the other direction, KL(q‖p); with old, the log-probabilities of the
    policy that sampled, that of KL(p‖q).
    logp, fixed, old (...) → y (...).
    Sources: Schulman 2020; of ρ, DeepSeek-AI 2025 (V3.2).

    Small d cancel, so exp(−d) − 1 is expm1. For d < −1 y = ρ exp(−d) (1 − exp(d) (1 − d)), and the powers are
    one, exp(fixed − old): ρ may be 0 to all digits where exp(−d) is beyond all numbers.
    """
    d = logp - fixed
    left = d.real < -1
    near, far = np.where(left, 0, d), bounded(np.where(left, d, -1), FAR)
    moved = np.zeros_like(d) if old is None else logp - old
    rest = np.where(left, 1 - np.exp(far) * (1 - far), np.expm1(-near) + near)
    return exp_times(np.where(left, moved - d, moved), rest), (logp, fixed, old)


@rounded_once
def k3_backward(dy, saved):
    """Gradients of k3_forward with respect to logp; fixed and old are constants.

        k = exp(−d) − 1 + d,  so ∂k/∂logp = 1 − exp(−d) = −expm1(−d)
        dlogp = dy (1 − exp(−d))            without old. E_p[(1 − q/p) ∇ ln p] = −Σ q ∇ ln p = ∇KL(q‖p)
        dlogp = dy (ρ k + ρ ∂k/∂logp)       with old, because ∂ρ/∂logp = ρ
              = dy ρ d                      because k + 1 − exp(−d) = d. E_old[ρ d ∇ ln p] = ∇KL(p‖q)

    In words: with old, k2's gradient, as if the policy of now had sampled. Without it, what the fixed model
    holds for likelier than the policy does is pulled up, and hard, by the ratio of the two.
    """
    logp, fixed, old = saved
    d = logp - fixed
    slope = -np.expm1(-d) if old is None else np.exp(logp - old) * d
    return dy * slope, None, None


k3 = Op("..., ...!, ...!? -> ...", k3_forward, k3_backward, saves="logp fixed old")
