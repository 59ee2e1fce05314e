"""By how much a response, or a token, did better than was expected: what a policy learns from.

All of it is constant to the gradient, in float64, and plain NumPy: what came is known when a policy learns. A
group is the responses to one prompt, whose rewards stand in a row. With a reward of 1 for success and 0 for
failure, a prompt is easy where most of its responses succeed and hard where few do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import AtLeastZero, Count, FromZeroToOne, Positive, Size, checked
from ..errors import InputError
from ..ops import whiten

Floats = NDArray[np.float64]
STEP = 0.2  # the most by which adaptive_beta follows, of n = horizon


@checked
def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    weights: ArrayLike,
    ended: ArrayLike,
    *,
    gamma: FromZeroToOne = 1.0,
    lam: FromZeroToOne = 0.95,
) -> tuple[Floats, Floats]:
    """Generalised advantage estimation: each token against what a critic expected before it came.

        δ_t = r_t + γ V_{t+1} − V_t
        A_t = δ_t + γ λ A_{t+1}        R_t = A_t + V_t, the λ-return

    λ = 1 compares all that came with V_t, without bias and with noise; λ = 0 believes the critic of one token
    on. Behind a row's last token V is 0 where the text has ended, for nothing more can come. Where it was cut
    off, the last V stands there again, as the best guess of what would have come: no critic has read on.
    Easy and hard prompts teach alike once the critic knows which they are: it is the baseline.
    Source: Schulman et al. 2016.

    Parameters
    ----------
    rewards, values : (N, T)
        r_t, what came with a token, and V_t, what the critic expected before it. They are looked at where
        weights are 1, and there alone.
    weights : (N, T)
        1 at the tokens of a response, which stand side by side, and 0 elsewhere.
    ended : (N,)
        Whether the text ended; 0 where it was cut off.
    gamma, lam : float
        γ, how much the next token's rewards count, and λ.

    Returns
    -------
    advantages, returns : (N, T)
        A and R, 0 where weights are 0.

    Examples
    --------
    >>> from numgpt.tuning import gae
    >>> advantages, returns = gae([[0, 1, 7]], [[0.5, 0.75, 7]], [[1, 1, 0]], [True], lam=0.5)
    >>> advantages.tolist(), returns.tolist()
    ([[0.375, 0.25, 0.0]], [[0.875, 1.0, 0.0]])
    """
    counted = _counted("gae", weights)
    rewards = _finite_where("gae: rewards", rewards, counted)
    values = _finite_where("gae: values", values, counted)
    over = np.asarray(ended)
    if over.shape != counted.shape[:1]:
        raise InputError(f"gae: ended has shape {over.shape}, expected {counted.shape[:1]}, one a row")
    N, T = counted.shape
    advantages = np.zeros((N, T))
    last = T - 1 - counted[:, ::-1].argmax(1)
    after = np.where(over != 0, 0.0, values[np.arange(N), last])
    advantage = np.zeros(N)
    for t in reversed(range(T)):
        delta = rewards[:, t] + gamma * after - values[:, t]
        advantage = np.where(counted[:, t], delta + gamma * lam * advantage, advantage)
        after = np.where(counted[:, t], values[:, t], after)
        advantages[:, t] = np.where(counted[:, t], advantage, 0)
    return advantages, advantages + values


@checked
def rloo(rewards: ArrayLike) -> Floats:
    """Each response against the mean of the others to its prompt: REINFORCE, leave-one-out.

        A_i = r_i − mean of the others = G/(G − 1) (r_i − mean of all)

    Without bias, because what a response is compared with does not depend on it. An easy prompt teaches by
    its rare failures and a hard one by its rare successes, each with an advantage near ±1; what the other
    responses get is near 0. A prompt of which half succeeds teaches most.
    Sources: Kool et al. 2019; for language models Ahmadian et al. 2024.

    Parameters
    ----------
    rewards : (prompts, G)
        Of G responses to each prompt, 2 or more.

    Returns
    -------
    (prompts, G)
        Exactly 0 in a group whose rewards are alike.

    Examples
    --------
    >>> from numgpt.tuning import rloo
    >>> rloo([[1, 0, 0, 0], [1, 1, 1, 1]]).round(3).tolist()
    [[1.0, -0.333, -0.333, -0.333], [0.0, 0.0, 0.0, 0.0]]
    """
    centred = _centred(_groups("rloo", rewards))
    G = centred.shape[1]
    return G / (G - 1) * centred


@checked
def grpo(rewards: ArrayLike, eps: AtLeastZero = 1e-4, ddof: Count = 1) -> Floats:
    """Each response against its group's mean, in units of the group's deviation.

        A_i = (r_i − mean) / (std + eps)

    The division makes every prompt teach about as much, and so lifts easy and hard ones: of 8 responses, one
    success alone gets 2.47, one of four 0.94. Where the rewards of a group differ by noise alone, the noise
    is lifted as well; dr_grpo leaves the division out.
    Source: Shao et al. 2024 (DeepSeekMath).

    Parameters
    ----------
    rewards : (prompts, G)
        Of G responses to each prompt, 2 or more.
    eps : float
        What keeps a group without deviation from a division by 0.
    ddof : int
        1 for a deviation over G − 1, as TRL has it; 0 for one over G, by which the two above get 2.65 and
        1.00 if eps is 0.

    Returns
    -------
    (prompts, G)
        Exactly 0 in a group whose rewards are alike.

    Examples
    --------
    >>> from numgpt.tuning import grpo
    >>> grpo([[1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]).round(2)[:, 0].tolist()
    [2.47, 0.94]
    """
    if ddof > 1:
        raise InputError(
            f"grpo: ddof is {ddof}, expected 0 or 1: what is taken from G, which divides squares"
        )
    centred = _centred(_groups("grpo", rewards))
    largest = abs(centred).max(1, keepdims=True)
    largest[largest == 0] = 1  # squares of what is divided by it neither overflow nor vanish
    squares = ((centred / largest) ** 2).sum(1, keepdims=True)
    deviation = largest * np.sqrt(squares / (centred.shape[1] - ddof)) + eps
    return centred / np.where(deviation == 0, 1, deviation)


@checked
def dr_grpo(rewards: ArrayLike) -> Floats:
    """Each response against its group's mean, and no more: "GRPO done right".

        A_i = r_i − mean

    Without GRPO's division easy and hard prompts teach less than those between, as in rloo, of which this is
    (G − 1)/G. The other half of the method is the loss: a sum over tokens, divided by a constant such as
    responses × the longest response, so that a long wrong response is not let off by its length.
    Source: Liu et al. 2025.

    Parameters
    ----------
    rewards : (prompts, G)
        Of G responses to each prompt, 2 or more.

    Returns
    -------
    (prompts, G)
        Exactly 0 in a group whose rewards are alike.

    Examples
    --------
    >>> from numgpt.tuning import dr_grpo
    >>> dr_grpo([[1, 0, 0, 0], [1, 1, 1, 1]]).tolist()
    [[0.75, -0.25, -0.25, -0.25], [0.0, 0.0, 0.0, 0.0]]
    """
    return _centred(_groups("dr_grpo", rewards))


@checked
def reinforce_pp(rewards: ArrayLike, baseline: bool = False) -> Floats:
    """Each response against all of the batch, in units of the batch's deviation: REINFORCE++.

        A = (r − mean) / √(var + 1e-8)        over the whole batch; with baseline, of r less its group's mean

    The rewards have the divergence in them already: r − β Σ k1. Without baseline all responses to an easy
    prompt rise and all to a hard one fall, whichever is the better: that is noise, which falls with the size
    of the batch, but groups of one are enough. With baseline a group whose rewards are alike teaches nothing,
    and all groups are measured by one deviation, so that no easy or hard one is lifted as in grpo.
    Source: Hu et al. 2025.

    Parameters
    ----------
    rewards : (prompts, G)
        Of G responses to each prompt; with baseline 2 or more.
    baseline : bool
        Whether a group's mean is taken away first.

    Returns
    -------
    (prompts, G)
        Exactly 0 where all rewards are alike, with baseline those of a group.

    Examples
    --------
    >>> from numgpt.tuning import reinforce_pp
    >>> reinforce_pp([[1, 0], [1, 1]]).round(3).tolist()
    [[0.577, -1.732], [0.577, 0.577]]
    >>> reinforce_pp([[1, 0], [1, 1]], baseline=True).round(3).tolist()
    [[1.414, -1.414], [0.0, 0.0]]
    """
    given = _groups("reinforce_pp", rewards, least=2 if baseline else 1)
    if not baseline:
        shifted: Floats = whiten(given - given[0, 0], np.ones_like(given))  # exactly 0 where all are alike
        return shifted
    centred = _centred(given)  # whose mean over the batch is 0: shifting by its rounding would be noise
    scaled: Floats = centred / np.sqrt((centred * centred).mean() + 1e-8)
    return scaled


@checked
def adaptive_beta(beta: AtLeastZero, kl: float, target: Positive, horizon: Positive, n: Size) -> float:
    """The weight of the divergence for the next step: larger where the policy went too far, else smaller.

        β ← β (1 + clip(KL/target − 1, ±0.2) n / horizon)

    Source: Ziegler et al. 2019, with a target of 6 nats a response, β = 0.15 to begin with and a horizon of
    10,000 responses.

    Parameters
    ----------
    beta : float
        The weight so far.
    kl : float
        The divergence that was measured, in nats a response.
    target : float
        What it should be.
    horizon : float
        After how many responses β may have grown by a fifth.
    n : int
        Of how many responses kl is the mean, fewer than 5 horizons.

    Returns
    -------
    float

    Examples
    --------
    >>> from numgpt.tuning import adaptive_beta
    >>> round(adaptive_beta(0.15, kl=12.0, target=6.0, horizon=10_000, n=500), 6)
    0.1515
    """
    if STEP * n >= horizon:
        raise InputError(
            f"adaptive_beta: n is {n}, expected less than {horizon / STEP:g}, 5 times horizon: a larger step"
            " could turn the sign of beta"
        )
    error = min(max(kl / target - 1, -STEP), STEP)
    return beta * (1 + error * n / horizon)


def _groups(who: str, rewards: Any, least: int = 2) -> Floats:
    """Rewards (prompts, G) as float64; InputError where one is no number, or a group has fewer than least."""
    given = np.asarray(rewards)
    if given.ndim != 2:
        raise InputError(f"{who}: rewards has shape {given.shape}, expected (prompts, G), a group a row")
    if given.shape[1] < least:
        reason = ": a response alone has none to be compared with" if least > 1 else ""
        raise InputError(f"{who}: groups have {given.shape[1]}, expected {least} or more responses{reason}")
    if not len(given):
        raise InputError(f"{who}: there is no group, expected one or more")
    return _finite_where(f"{who}: rewards", given, np.ones(given.shape, bool))


def _centred(rewards: Floats) -> Floats:
    """Rewards less the mean of their group; exactly 0 where they are alike, as r − mean(r) need not be."""
    apart = rewards - rewards[:, :1]
    return apart - apart.mean(1, keepdims=True)


def _counted(who: str, weights: Any) -> NDArray[np.bool_]:
    """Where weights (N, T) are 1; InputError unless they are 0 or 1, and those of a row side by side."""
    given = np.asarray(weights)
    if given.ndim != 2 or not given.shape[1]:
        raise InputError(f"{who}: weights has shape {given.shape}, expected (N, T), a response a row")
    if not np.isin(given, (0, 1)).all():
        raise InputError(f"{who}: weights has {given[~np.isin(given, (0, 1))][0]}, expected 0 and 1 alone")
    counted: NDArray[np.bool_] = given != 0
    begins = counted[:, 1:] & ~counted[:, :-1]
    apart = begins.sum(1) + counted[:, 0] > 1
    if apart.any():
        raise InputError(
            f"{who}: weights has a 0 between two 1 in row {apart.argmax()}, expected them side by side"
        )
    return counted


def _finite_where(what: str, numbers: Any, counted: NDArray[np.bool_]) -> Floats:
    """Numbers as float64, 0 where nothing is counted; InputError where a counted one is not finite."""
    given = np.asarray(numbers)
    if given.shape != counted.shape:
        raise InputError(f"{what} has shape {given.shape}, expected {counted.shape}")
    if given.dtype.kind not in "biuf":
        raise InputError(f"{what} has dtype {given.dtype}, expected real numbers")
    given = np.where(counted, given, 0).astype(np.float64)
    if not np.isfinite(given).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(given))[0]))
        raise InputError(f"{what} has {given[place]} at {place}, expected finite numbers")
    return given
