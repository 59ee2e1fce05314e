"""What a router is trained by besides the text: an even load of the experts, and scores that stay small."""

import numpy as np

from ..errors import InputError
from .experts import softmax
from .op import Op
from .rounded import rounded_once


@rounded_once
def balance_forward(logits, chosen):
    """How unevenly tokens are spread over the experts: 1 where all get as many, up to E where one gets all.

        loss = E Σ_e f_e P_e
        f_e = (how often e was chosen) / (N A)        its share of what was sent, Σ f = 1
        P_e = Σ_n p_ne / N                            its mean probability, Σ P = 1, p the softmax over all E

    N rows of A chosen experts each. f counts, so it is a constant; the gradient passes through P.
    transformers divides f by N alone, so that its value is A times this one, and takes the rows of all layers
    together.
    logits (..., E), chosen (..., A) integers below E → loss ().  Source: Fedus et al. 2021, equations 4 to 6.
    """
    E = logits.shape[-1]
    probs = _softmax_of_some("balance", logits)[0]
    share = np.bincount(chosen.reshape(-1), minlength=E).astype(logits.real.dtype) / chosen.size
    least = share.min()  # Σ P = 1, so what all have is a constant: an even load has gradient exactly 0
    above = share - least
    loss = E * (least + (probs.reshape(-1, E).mean(0) * above).sum())
    return loss, (probs, above)


@rounded_once
def balance_backward(dloss, saved):
    """Gradients of balance_forward with respect to logits and chosen (none: they are integers).

        g_e = ∂loss/∂p_ne = E f_e / N
        dl = dloss p (g − ⟨p, g⟩)        the softmax's gradient, in which what all g have cancels

    In words: an expert's score is pulled down by how much more it gets than this token's mixture does.
    """
    probs, above = saved
    E = probs.shape[-1]
    g = above * (E / (probs.size // E))
    return dloss * probs * (g - (probs * g).sum(-1, keepdims=True)), None


balance = Op(
    "...E, ...A<E -> ()",
    balance_forward,
    balance_backward,
    at_least={"E": "A"},
    distinct="chosen",
    saves="...E E",
)


def _softmax_of_some(who, logits):
    """The softmax; InputError where there is no row, of which there would be no mean."""
    if not logits.size:
        raise InputError(f"{who}: logits has shape {logits.shape}, expected at least one row")
    return softmax(logits)


@rounded_once
def router_z_forward(logits):
    """How large a router's scores are: they are rounded in a softmax, the more the larger they are.

        loss = Σ_n z_n² / N        z_n = ln Σ_e exp(l_ne)

    logits (..., E) → loss ().  Source: Zoph et al. 2022, equation 5.
    """
    probs, z = _softmax_of_some("router_z", logits)
    return (z * z).mean(), (probs, z)


@rounded_once
def router_z_backward(dloss, saved):
    """Gradient of router_z_forward with respect to logits.

        dl = dloss 2 z p / N        because ∂z/∂l = p, the softmax

    In words: a token's scores fall together, the largest fastest, until their exponentials add up to 1.
    """
    probs, z = saved
    return (dloss * (2 / z.size) * z[..., None] * probs,)


router_z = Op("...E -> ()", router_z_forward, router_z_backward, saves="...E ...")
