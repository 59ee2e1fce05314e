"""A loss whose parameters are held near where they were: elastic weight consolidation, or plain L2."""

from ..ops import add, anchor, scaled
from .layer import Layer


def anchored(loss, anchors, weight):
    """The layer of a loss with weight Σ_k Σ_i ½ f_ki (θ_i − c_ki)² added.

    anchors: pairs (c, f) of mappings name -> array: where parameters were, and how stiff each is.
    """
    terms = [(k, name, c[name], f[name]) for k, (c, f) in enumerate(anchors) for name in f]

    def forward(r, *inputs):
        """The loss of the inputs, and what is added to it.  → ()"""
        total = loss.forward(r, *inputs)
        for k, name, centre, stiffness in terms:
            held = r(f"anchor.{k}.{name}", anchor, r.params[name], centre, stiffness)
            held = r(f"anchor_part.{k}.{name}", scaled, held, factor=weight)
            total = r(f"anchored.{k}.{name}", add, total, held)
        return total

    def backward(r, dloss):
        """Gradients of forward: each parameter gets one from its springs besides."""
        for k, name, _, _ in reversed(terms):
            dloss, dheld = r.back(f"anchored.{k}.{name}", dloss)
            r.put(name, r.back(f"anchor.{k}.{name}", r.back(f"anchor_part.{k}.{name}", dheld)))
        loss.backward(r, dloss)

    return Layer(forward, backward)
