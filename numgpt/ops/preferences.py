"""Which of two texts is better: losses of a pair, or of one text that was called good or bad.

They read numbers of whole texts: rewards, or log-probabilities of the model that is trained and of a fixed
one, the reference, which are constants. Each gives a number a pair, and leaves the mean to whoever calls it.
"""

import numpy as np

from .activations import sigmoids
from .op import Op
from .rounded import rounded_once


def log_sigmoid(x):
    """ln σ(x) = −m − ln(1 + e^−(x + 2m)), m = max(−x, 0): x + 2m is |x|, without which exp could overflow.

    m is chosen by the real part, so that complex numbers pass.
    """
    m = np.where(x.real < 0, -x, 0)
    return -m - np.log1p(np.exp(-(x + 2 * m)))


@rounded_once
def bradley_terry_forward(chosen, rejected):
    """How surprising it is that the chosen one of two was chosen, by their rewards.

        y = −ln σ(Δ)        Δ = chosen − rejected

    chosen (...), rejected (...) → y (...).  Source: Bradley and Terry 1952.
    """
    margin = chosen - rejected
    return -log_sigmoid(margin), (margin,)


@rounded_once
def bradley_terry_backward(dy, saved):
    """Gradients of bradley_terry_forward with respect to chosen and rejected.

        dΔ = −dy σ(−Δ)        because (ln σ)′ = 1 − σ(Δ) = σ(−Δ)
        dchosen = dΔ,  drejected = −dΔ

    In words: the two are pushed apart by the probability that the other one would have been chosen.
    """
    (margin,) = saved
    dmargin = -dy * sigmoids(margin)[1]
    return dmargin, -dmargin


bradley_terry = Op("..., ... -> ...", bradley_terry_forward, bradley_terry_backward, saves="...")


@rounded_once
def dpo_forward(chosen, rejected, fixed_chosen, fixed_rejected, *, beta=0.1, label_noise=0.0):
    """Bradley and Terry's loss, where a text's reward is how much likelier it is than the reference has it.

        y = −(1 − ε) ln σ(h) − ε ln σ(−h)        h = β D
        D = (chosen − fixed_chosen) − (rejected − fixed_rejected)

    All four are log-probabilities of whole texts. ε, label_noise, is the share of pairs that are believed to
    be the wrong way round: the loss then rests at σ(−h) = ε, where with ε = 0 it has no rest. At the
    reference itself D = 0 and y = ln 2. Only the difference matters: a loss that falls may take both texts
    down with it.
    chosen, rejected, fixed_chosen, fixed_rejected (...) → y (...).
    Sources: Rafailov et al. 2023; of ε, Mitchell 2023.
    """
    h = beta * ((chosen - fixed_chosen) - (rejected - fixed_rejected))
    y = -(1 - label_noise) * log_sigmoid(h) - label_noise * log_sigmoid(-h)
    return y, (h, beta, label_noise)


@rounded_once
def dpo_backward(dy, saved):
    """Gradients of dpo_forward with respect to chosen and rejected; the fixed ones are constants.

        ∂y/∂h = −(1 − ε) σ(−h) + ε σ(h) = ε − σ(−h)        because σ(h) + σ(−h) = 1
        dchosen = dy β (ε − σ(−h)),  drejected = −dchosen        because h = β D

    In words: Bradley and Terry's, times β, until the pair is as sure as its label.
    """
    h, beta, label_noise = saved
    dchosen = dy * beta * (label_noise - sigmoids(h)[1])
    return dchosen, -dchosen, None, None


dpo = Op(
    "..., ..., ...!, ...! -> ...",
    dpo_forward,
    dpo_backward,
    variants={"beta": {"beta": 0.7}, "label noise": {"beta": 1.5, "label_noise": 0.2}},
    saves="...",
)


@rounded_once
def ipo_forward(chosen, rejected, fixed_chosen, fixed_rejected, *, beta=0.1):
    """How far the two texts are from a margin that is enough: going beyond it costs, too.

        y = (D − 1/(2β))²        D = (chosen − fixed_chosen) − (rejected − fixed_rejected)

    chosen, rejected, fixed_chosen, fixed_rejected (...) → y (...).  Source: Azar et al. 2023.
    """
    gap = (chosen - fixed_chosen) - (rejected - fixed_rejected) - 1 / (2 * beta)
    return gap * gap, (chosen, rejected, fixed_chosen, fixed_rejected, beta)


@rounded_once
def ipo_backward(dy, saved):
    """Gradients of ipo_forward with respect to chosen and rejected; the fixed ones are constants.

        dchosen = 2 dy (D − 1/(2β)),  drejected = −dchosen        because y is a square of what D misses

    In words: a spring between the two, at rest where they are 1/(2β) apart.
    """
    chosen, rejected, fixed_chosen, fixed_rejected, beta = saved
    gap = (chosen - fixed_chosen) - (rejected - fixed_rejected) - 1 / (2 * beta)
    dchosen = 2 * dy * gap
    return dchosen, -dchosen, None, None


ipo = Op(
    "..., ..., ...!, ...! -> ...",
    ipo_forward,
    ipo_backward,
    variants={"beta": {"beta": 0.7}},
    saves="chosen rejected fixed_chosen fixed_rejected",
)


@rounded_once
def kto_forward(logp, fixed, desirable, z0=None, *, beta=0.1):
    """How little one text gained that was called good, or lost that was called bad: no pairs are needed.

        y = 1 − σ(s (u − z₀))        u = β (logp − fixed)
        s = 1 where desirable is above 0, else −1

    logp, fixed: the text's log-probabilities by the model and by the reference. z₀ is what texts gain on
    average, β times the divergence of the batch, a constant; 0 where it is not given.
    logp, fixed, desirable (...), z0 () → y (...).  Source: Ethayarajh et al. 2024.
    """
    gain = beta * (logp - fixed) - (0.0 if z0 is None else z0)
    gain = np.where(desirable.real > 0, gain, -gain)
    return sigmoids(gain)[1], (gain, desirable, beta)


@rounded_once
def kto_backward(dy, saved):
    """Gradients of kto_forward with respect to logp; fixed, desirable and z0 are constants.

        dlogp = −dy s β σ(g) σ(−g)        g = s (u − z₀), because σ′ = σ(g) σ(−g)

    In words: a text that is neither won nor lost yet moves most; one that is decided stays.
    """
    gain, desirable, beta = saved
    won, lost = sigmoids(gain)
    slope = dy * beta * won * lost
    return np.where(desirable.real > 0, -slope, slope), None, None, None


kto = Op(
    "..., ...!, ...!, ()!? -> ...",
    kto_forward,
    kto_backward,
    variants={"beta": {"beta": 0.7}},
    saves="... desirable",
)


@rounded_once
def clipped_value_forward(value, old, returns, *, clip=0.2):
    """Half the squared error of a value, or of one that moved no further than clip: the larger of the two.

        y = ½ max((v − R)², (v_c − R)²)        v_c = old + clip(v − old, ±clip)

    old: the value before this round of steps; returns R: what came. Both are constants.
    value, old, returns (...) → y (...).  Source: Schulman et al. 2017, OpenAI's baselines.
    """
    moved = value - old
    near = abs(moved.real) <= clip
    kept = np.where(near, value, old + np.copysign(clip, moved.real))
    error, other = value - returns, kept - returns
    follows = near | (abs(error.real) >= abs(other.real))
    y = np.where(follows, error, other)
    return 0.5 * y * y, (error, follows)


@rounded_once
def clipped_value_backward(dy, saved):
    """Gradients of clipped_value_forward with respect to value; old and returns are constants.

        dvalue = dy (v − R)        where v moved no further than clip, or errs more than v_c
                 0                 elsewhere, because v_c does not depend on v there

    In words: the error, unless the value has gone too far on its way to the right side.
    """
    error, follows = saved
    return np.where(follows, dy * error, 0), None, None


clipped_value = Op(
    "..., ...!, ...! -> ...",
    clipped_value_forward,
    clipped_value_backward,
    variants={"wide": {"clip": 1.5}},
    saves="... ...:bool",
)
