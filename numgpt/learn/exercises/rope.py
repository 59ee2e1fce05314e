"""Rotary positions: what was turned is turned back.

A token's vector is cut into pairs of numbers, and each pair is turned by an angle that grows with the token's
position. Pair i is (x[i], x[i + D/2]): the first half holds all a, the second all b. A turn is linear in what
is turned, so its backward needs no values of the forward, only the angles.

Shapes: x, dy (B, T, D) with P = D/2 pairs · cos, sin (T, P), of the angle of each position and pair
"""

import numpy as np

from ..exercise import Exercise, Fault, Invariant, Term, Variant, case_of_pair

BASE = 10000.0


def angles(T, P):
    """The angle of pair i at position t, t * BASE ** (-i / P), for T positions from 1 on."""
    return np.arange(1, T + 1)[:, None] * BASE ** (-np.arange(P) / P)


def rope_forward(x):
    """y holds a * cos - b * sin in its first half, a * sin + b * cos in its second."""
    a, b = np.split(x, 2, axis=-1)
    theta = angles(*a.shape[-2:])
    cos, sin = np.cos(theta), np.sin(theta)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1), (cos, sin)


def rope_backward(dy, saved):
    """The gradient dx of sum(dy * y).

    Let p and q be the halves of y, dp and dq those of dy. In each pair:

        p = a * cos - b * sin
        q = a * sin + b * cos

        da = dp * … + dq * …                            because a stands in p and in q
        db = dp * … + dq * …                            because b does

    Put in by what a and b are multiplied. Compare with the forward: by which angle does this turn?
    """
    cos, sin = saved
    dp, dq = np.split(dy, 2, axis=-1)
    # yours
    da = dp * cos + dq * sin
    db = dq * cos - dp * sin
    return np.concatenate([da, db], axis=-1)


def case(rng, B, T, P):
    """Random arrays of these sizes, and what the terms are made of."""
    x, dy = rng.standard_normal((2, B, T, 2 * P))
    _, (cos, sin) = rope_forward(x)
    values = {"cos": cos, "sin": sin, "halves": halves, "join": join, "first": lambda v: v.halves(v.dy)[0]}
    made = case_of_pair(rope_forward, {"x": x}, dy, {"B": B, "T": T, "P": P}, **values)
    of_a = np.arange(2 * P) < P
    made.sets["dx"] = {"the first half, da": of_a, "the second half, db": ~of_a}
    return made


def halves(a):
    """The two halves of the last axis."""
    return np.split(a, 2, axis=-1)


def join(da, db):
    """Two halves, side by side."""
    return np.concatenate([da, db], axis=-1)


def terms(v):
    """The signed sums that the gradients are."""
    dp, dq = v.halves(v.dy)
    none = 0 * dp
    return {
        "dx": (
            Term("p_to_a", "da: dp * cos", v.join(dp * v.cos, none)),
            Term("q_to_a", "da: dq * sin", v.join(dq * v.sin, none)),
            Term("p_to_b", "db: dp * sin", v.join(none, v.first(v) * v.sin), -1),
            Term("q_to_b", "db: dq * cos", v.join(none, dq * v.cos)),
        )
    }


def by_turns(da, db):
    """Neighbours as pairs: a at even places, b at odd ones."""
    return np.stack([da, db], axis=-1).reshape(*da.shape[:-1], -1)


VARIANTS = (
    Variant(
        "TURNED_ON",
        "turns dy on by the angle of the forward: it is to be turned back",
        lambda v: v.but(sin=-v.sin),
    ),
    Variant(
        "NOT_TURNED",
        "is dy itself: it is not turned back",
        lambda v: v.but(cos=np.ones_like(v.cos), sin=np.zeros_like(v.sin)),
    ),
    Variant(
        "TURNED_TWICE",
        "turns dy back by twice the angle",
        lambda v: v.but(cos=v.cos**2 - v.sin**2, sin=2 * v.cos * v.sin),
    ),
    Variant("COS_FOR_SIN", "has cos and sin in each other's places", lambda v: v.but(cos=v.sin, sin=v.cos)),
    Variant(
        "DIVIDED",
        "is divided by cos and sin where it is multiplied by them",
        lambda v: v.but(cos=1 / v.cos, sin=1 / v.sin),
    ),
    Variant(
        "NEIGHBOURS_FOR_HALVES",
        "takes neighbours for pairs, (x[0], x[1]): here the pairs are (x[i], x[i + D/2])",
        lambda v: v.but(halves=lambda a: (a[..., ::2], a[..., 1::2]), join=by_turns),
    ),
    Variant(
        "READ_AS_NEIGHBOURS",
        "cuts dy into neighbours, and joins halves: both are to be halves",
        lambda v: v.but(halves=lambda a: (a[..., ::2], a[..., 1::2])),
    ),
    Variant(
        "JOINED_AS_NEIGHBOURS",
        "cuts dy into halves, and joins da and db by turns: both are to be halves",
        lambda v: v.but(join=by_turns),
    ),
    Variant(
        "HALVES_SWAPPED",
        "has db in the first half and da in the second",
        lambda v: v.but(join=lambda da, db: join(db, da)),
    ),
    Variant(
        "DP_WRITTEN_OVER",
        "uses da for dp when it computes db: dp was written over",
        lambda v: v.but(first=lambda v: v.halves(v.dy)[0] * v.cos + v.halves(v.dy)[1] * v.sin),
    ),
    Variant(
        "POSITIONS_FROM_THE_END",
        "has the angles of the positions counted from the end",
        lambda v: v.but(cos=v.cos[::-1], sin=v.sin[::-1]),
    ),
    Variant(
        "FROM_POSITION_0",
        "has the angles of positions from 0 on: the forward counts from 1",
        lambda v: v.but(**from_zero(v)),
    ),
    Variant(
        "ONE_ANGLE_FOR_ALL",
        "turns all positions by the angles of the first",
        lambda v: v.but(cos=v.cos[:1], sin=v.sin[:1]),
    ),
)


def from_zero(v):
    """cos and sin of each angle less that of the first position."""
    return {
        "cos": v.cos * v.cos[0] + v.sin * v.sin[0],
        "sin": v.sin * v.cos[0] - v.cos * v.sin[0],
    }


def lengths(a):
    """The squared length of each pair."""
    first, second = halves(a)
    return first**2 + second**2


INVARIANTS = (
    Invariant(
        "dx",
        "A turn keeps lengths, and so does its backward: each pair of dx is as long as that of dy.",
        "differs in its square by",
        lambda dx, v: lengths(dx) - lengths(v.dy),
    ),
    Invariant(
        "dx",
        "Turned forward again, dx is dy: turning back undoes a turn.",
        "is off by",
        lambda dx, v: (
            join(halves(dx)[0] * v.cos - halves(dx)[1] * v.sin, halves(dx)[0] * v.sin + halves(dx)[1] * v.cos)
            - v.dy
        ),
    ),
)

HINTS = {
    "": (
        "By what is a multiplied in p, and by what in q? The same for b?",
        "The matrix of a turn, transposed, is the turn by the opposite angle: only sin changes its sign.",
        "da = dp * cos + dq * sin, db = dq * cos - dp * sin",
    ),
    "P_TO_A": (
        "By what is a multiplied in p?",
        "a reaches p by cos.",
        "dp * cos is one of the two terms of da",
    ),
    "Q_TO_A": (
        "a stands in p. In what else?",
        "a reaches q by sin.",
        "dq * sin is one of the two terms of da",
    ),
    "P_TO_B": (
        "b stands in q. In what else, and with which sign?",
        "b reaches p by -sin.",
        "-dp * sin is one of the two terms of db",
    ),
    "Q_TO_B": (
        "By what is b multiplied in q?",
        "b reaches q by cos.",
        "dq * cos is one of the two terms of db",
    ),
    "TURNED_ON": (
        "If the forward turns by an angle, by which angle must dy be turned to stand as x stood?",
        "The backward of a matrix is its transpose; that of a turn is the turn back.",
        "the forward's two lines with -sin for sin",
    ),
    "NEIGHBOURS": (
        "Which number of x is the partner of x[0] in the forward?",
        "The first half holds all a, the second all b.",
        "np.split(dy, 2, axis=-1), and np.concatenate([da, db], axis=-1)",
    ),
    "WRITTEN_OVER": (
        "When db is computed, what does dp hold?",
        "Halves that are views of one array change with it: compute both before you write either.",
        "da and db first, as new arrays; then np.concatenate([da, db], axis=-1)",
    ),
    "POSITION": (
        "By which angle was the vector at position t turned in the forward?",
        "Each position has its own row of cos and sin; the saved ones are right.",
        "dp * cos: cos (T, P) meets the last two axes of dp",
    ),
}

DA, DB = "dp * cos + dq * sin", "dq * cos - dp * sin"
FAULTS = (
    Fault(
        "turned on, not back", ("ROPE_TURNED_ON",), ((DA, "dp * cos - dq * sin"), (DB, "dp * sin + dq * cos"))
    ),
    Fault("dy passed on", ("ROPE_NOT_TURNED",), ((DA, "dp"), (DB, "dq"))),
    Fault(
        "turned back twice",
        ("ROPE_TURNED_TWICE",),
        (("da = ", "cos, sin = cos**2 - sin**2, 2 * cos * sin\nda = "),),
    ),
    Fault("the sign of sin in da", ("ROPE_Q_TO_A_TERM_SIGN",), ((DA, "dp * cos - dq * sin"),)),
    Fault("the sign of sin in db", ("ROPE_P_TO_B_TERM_SIGN",), ((DB, "dq * cos + dp * sin"),)),
    Fault(
        "each number by its own cos alone",
        ("ROPE_Q_TO_A_TERM_MISSING", "ROPE_P_TO_B_TERM_MISSING"),
        ((DA, "dp * cos"), (DB, "dq * cos")),
    ),
    Fault("a in q forgotten", ("ROPE_Q_TO_A_TERM_MISSING",), ((DA, "dp * cos"),)),
    Fault("b in p forgotten", ("ROPE_P_TO_B_TERM_MISSING",), ((DB, "dq * cos"),)),
    Fault("cos and sin swapped", ("ROPE_COS_FOR_SIN",), (("da = ", "cos, sin = sin, cos\nda = "),)),
    Fault("the halves joined in the other order", ("ROPE_HALVES_SWAPPED",), (("[da, db]", "[db, da]"),)),
    Fault(
        "neighbours for pairs (GPT-J's layout for GPT-NeoX's: huggingface/transformers #25199)",
        ("ROPE_NEIGHBOURS_FOR_HALVES",),
        (
            ("da = ", "dp, dq = dy[..., ::2], dy[..., 1::2]\nda = "),
            ("np.concatenate([da, db], axis=-1)", "np.stack([da, db], axis=-1).reshape(dy.shape)"),
        ),
    ),
    Fault(
        "neighbours read, halves written",
        ("ROPE_READ_AS_NEIGHBOURS",),
        (("da = ", "dp, dq = dy[..., ::2], dy[..., 1::2]\nda = "),),
    ),
    Fault(
        "halves read, neighbours written",
        ("ROPE_JOINED_AS_NEIGHBOURS",),
        (("np.concatenate([da, db], axis=-1)", "np.stack([da, db], axis=-1).reshape(dy.shape)"),),
    ),
    Fault(
        "dp written over before db is computed",
        ("ROPE_DP_WRITTEN_OVER",),
        (("da = dp * cos + dq * sin", "dp = da = dp * cos + dq * sin"),),
    ),
    Fault(
        "in place, in the caller's array",
        ("ARGUMENT_CHANGED",),
        (("da = dp * cos + dq * sin", "dp[:] = da = dp * cos + dq * sin"),),
    ),
    Fault(
        "positions from the end",
        ("ROPE_POSITIONS_FROM_THE_END",),
        (("da = ", "cos, sin = cos[::-1], sin[::-1]\nda = "),),
    ),
    Fault(
        "positions from 0 where the forward counts from 1 (a cache's start off by one)",
        ("ROPE_FROM_POSITION_0",),
        (
            (
                "da = ",
                "theta = angles(*dp.shape[-2:])\ntheta = theta - theta[0]\n"
                "cos, sin = np.cos(theta), np.sin(theta)\nda = ",
            ),
        ),
    ),
    Fault("one angle for all", ("ROPE_ONE_ANGLE_FOR_ALL",), (("da = ", "cos, sin = cos[0], sin[0]\nda = "),)),
    Fault("divided", ("ROPE_DIVIDED",), ((DA, "dp / cos + dq / sin"), (DB, "dq / cos - dp / sin"))),
    Fault(
        "the second half passed over",
        ("ROPE_P_TO_B_TERM_MISSING", "ROPE_Q_TO_B_TERM_MISSING"),
        (("[da, db]", "[da, 0 * db]"),),
    ),
)

ALTERNATIVES = (
    """
    turned = np.concatenate([-dq, dp], axis=-1)
    twice = [np.concatenate([a, a], axis=-1) for a in (cos, sin)]
    return dy * twice[0] - turned * twice[1]
    """,
    """
    z = (dp + 1j * dq) * (cos - 1j * sin)
    return np.concatenate([z.real, z.imag], axis=-1)
    """,
    """
    P = cos.shape[-1]
    matrix = np.zeros((*cos.shape, 2, 2))
    matrix[..., 0, 0] = matrix[..., 1, 1] = cos
    matrix[..., 0, 1], matrix[..., 1, 0] = -sin, sin
    pairs = np.einsum("btkp,tpkj->btjp", dy.reshape(*dy.shape[:-1], 2, P), matrix)
    return pairs.reshape(dy.shape)
    """,
)

EXERCISE = Exercise(
    name="rope",
    prefix="ROPE",
    solution=rope_backward,
    forward=rope_forward,
    shown=("BASE", "angles", "rope_forward"),
    gradients={"dx": "BTD"},
    sizes={"B": 3, "T": 5, "P": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"da": ("da", "dfirst"), "db": ("db", "dsecond")},
    constants={"BASE": ("10000.0", "1000.0", "500.0")},
    ops=("rotary",),
)
