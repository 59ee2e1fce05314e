"""A block's mixture of experts where these lie on several ranks, written out in both directions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..layers.layer import Layer
from ..layers.pickers import factor
from ..layers.transformer import ffn
from ..ops import add, combine, dispatch, dropout, expert_linear, linear, opened, route
from ..ops.activations import ACTIVATIONS
from ..ops.experts import chosen_experts
from ..ops.op import Op
from .ranks import Ranks


class Routing(NamedTuple):
    """Where the rows of one rank go, and what comes here.

    order: this rank's rows by their destination, the rows for one rank in their own order.
    sent, come: how many go to each rank, and come from each.
    experts: of each row that comes, in the order of their ranks, the expert, counted from this rank's first.
    """

    order: Any
    sent: list[int]
    come: list[int]
    experts: Any


def routed(ranks: Ranks, chosen: Any, n_here: int) -> Routing:
    """Say to each rank how many rows come, and for which of its n_here experts."""
    ids = chosen.reshape(-1)
    owners = ids // n_here
    order = np.argsort(owners, kind="stable")
    sent = np.bincount(owners, minlength=ranks.size).tolist()
    come = ranks.all_to_all(_cut(ids[order] % n_here, sent))
    return Routing(order, sent, [len(part) for part in come], np.concatenate(come))


def _cut(rows: Any, lengths: list[int]) -> list[Any]:
    """Rows in parts of these lengths, some of which may be 0."""
    return np.split(rows, np.cumsum(lengths)[:-1])


def away(ranks: Ranks, routing: Routing, rows: Any) -> Any:
    """This rank's rows go to the ranks of their experts; what came for the experts here.  (n, C) → (m, C)"""
    return np.concatenate(ranks.all_to_all(_cut(rows[routing.order], routing.sent)))


def home(ranks: Ranks, routing: Routing, rows: Any) -> Any:
    """The way back: rows that were computed here go to where they came from.  (m, C) → (n, C)"""
    back = np.concatenate(ranks.all_to_all(_cut(rows, routing.come)))
    mine = np.empty_like(back)
    mine[routing.order] = back
    return mine


def travels(ranks: Ranks) -> tuple[Op, Op]:
    """The ops of the two journeys, which are each other's backward.

        y = P x        x the rows of all ranks one after the other, P a permutation of them
        dx = Pᵀ dy     because each row goes to one place, and is read there alone

    and Pᵀ is P⁻¹: gradients take the way that the rows took, in the other direction. P depends on chosen
    alone, integers that have no gradient.
    """

    def sent_forward(x: Any, *, routing: Routing) -> Any:
        """Copies of tokens (..., A, C) → the rows (m, C) that this rank's experts are to compute."""
        return away(ranks, routing, x.reshape(-1, x.shape[-1])), (routing, x.shape)

    def sent_backward(dy: Any, saved: Any) -> Any:
        """Gradient of sent_forward with respect to x: home, by Pᵀ."""
        routing, shape = saved
        return (home(ranks, routing, dy).reshape(shape),)

    def returned_forward(x: Any, *, routing: Routing, like: Any) -> Any:
        """The rows (m, C) that experts here have computed → those of this rank's tokens (..., A, C)."""
        return home(ranks, routing, x).reshape(like), routing

    def returned_backward(dy: Any, saved: Any) -> Any:
        """Gradient of returned_forward with respect to x: away again, by P."""
        routing = saved
        return (away(ranks, routing, dy.reshape(-1, dy.shape[-1])),)

    # The axes before the last are a journey's own business: there may be no row at all.
    return Op("...C -> ...C", sent_forward, sent_backward), Op(
        "...C -> ...C", returned_forward, returned_backward
    )


def experts_on(ranks: Ranks) -> Layer:
    """transformer.experts with two journeys in it: to the rank of the expert, and back.

    The router, the weights and the sum are the token's own rank's; what lies between the journeys is the
    expert's rank's, which hears of no token but as a row.
    """
    sent, returned = travels(ranks)

    def forward(r: Any, x: Any) -> Any:
        """As experts_forward.  x (..., C) → (..., C)"""
        c = r.config
        logits = r("router", linear, x)
        chosen = r.decide("chosen", chosen_experts, logits, c.n_expert_active)
        r.tell("router", logits, chosen)
        weights = r("route", route, logits, chosen, renorm=c.router == "renorm")
        copies = r("dispatch", dispatch, x, n_active=c.n_expert_active)
        routing = routed(ranks, chosen, c.n_expert // ranks.size)
        rows = r("sent", sent, copies, routing=routing)
        h = r("c_fc", expert_linear, rows, routing.experts)
        a = r("act", ACTIVATIONS[c.activation].op, h)
        z = r("c_proj", expert_linear, a, routing.experts)
        z = r("returned", returned, z, routing=routing, like=copies.shape)
        y = r("combine", combine, z, weights)
        y = factor(r, "scale", y, c.residual_scale)
        return r("dropout", dropout, y)

    def backward(r: Any, dy: Any) -> Any:
        """As experts_backward."""
        dy = r.back("dropout", dy)
        dy = r.back("scale", dy)
        dz, dweights = r.back("combine", dy)
        dz = r.back("returned", dz)
        da = r.back("c_proj", dz)
        dh = r.back("act", da)
        drows = r.back("c_fc", dh)
        dx = r.back("dispatch", r.back("sent", drows))
        dlogits = r.back("route", dweights)
        return dx + r.back("router", dlogits)

    return Layer(forward, backward)


def shared_experts_on(ranks: Ranks) -> Layer:
    """transformer.shared_experts with those two journeys; to the shared one, on all ranks, nobody travels."""
    experts = experts_on(ranks)

    def forward(r: Any, x: Any) -> Any:
        """As shared_experts_forward.  x (..., C) → (..., C)"""
        y = experts.forward(r, x)
        s = r("shared", ffn, x)
        s = r("opened", opened, r("shared_gate", linear, x), s)
        return r("sum", add, y, s)

    def backward(r: Any, dy: Any) -> Any:
        """As shared_experts_backward."""
        dy, ds = r.back("sum", dy)
        dgate, ds = r.back("opened", ds)
        dx = r.back("shared_gate", dgate)
        dx = dx + r.back("shared", ds)
        return dx + experts.backward(r, dy)

    return Layer(forward, backward)


LAYERS: dict[str, Callable[[Ranks], Layer]] = {"experts": experts_on, "shared": shared_experts_on}
