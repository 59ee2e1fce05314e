"""The loss of a mixture of experts in training: the surprise, and what keeps its routers from one choice."""

from ..ops import add, balance, router_z, scaled
from .layer import Layer
from .transformer import loss


def with_router_losses(balance_weight, z_weight, loss=loss):
    """The layer of a loss with, for each router, weight times balance and weight times z added.

    A router's losses are means over all tokens of the batch, whether they count as targets or not.
    """

    def forward(r, tokens, targets, count=None):
        """The mean surprise, and what is added to it.  tokens and targets (..., T) → ()"""
        total = loss.forward(r, tokens, targets, count)
        for router, (logits, chosen) in r.told.items():
            even = r(f"{router}.balance", balance, logits, chosen)
            even = r(f"{router}.balance_part", scaled, even, factor=balance_weight)
            small = r(f"{router}.z", router_z, logits)
            small = r(f"{router}.z_part", scaled, small, factor=z_weight)
            parts = r(f"{router}.losses", add, even, small)
            total = r(f"{router}.total", add, total, parts)
        return total

    def backward(r, dloss):
        """Gradients of forward: a router's scores get one from each of its losses, and from the text."""
        for router in reversed(r.told):
            dloss, dparts = r.back(f"{router}.total", dloss)
            deven, dsmall = r.back(f"{router}.losses", dparts)
            dlogits = r.back(f"{router}.z", r.back(f"{router}.z_part", dsmall))
            deven = r.back(f"{router}.balance_part", deven)
            r.send(router, dlogits + r.back(f"{router}.balance", deven))
        loss.backward(r, dloss)

    return Layer(forward, backward)
