"""Embeddings: rows that are used more than once.

A token picks a row of wte, its position a row of wpe, and the two are added. A row that is used at several
places collects the gradients of all of them: `dwte[ids] += dy` looks as if it did, and keeps only the last.

Shapes: ids (B, T) integers below V · wte (V, C) · wpe (P, C), P ≥ T · y, dy (B, T, C)
"""

import numpy as np

from ..exercise import Case, Exercise, Fault, Invariant, Term, Values, Variant


def embedding_forward(ids, wte, wpe):
    """y[b, t] = wte[ids[b, t]] + wpe[t]."""
    return wte[ids] + wpe[: ids.shape[1]], (ids, wte, wpe)


def embedding_backward(dy, saved):
    """The gradients (dwte, dwpe) of sum(dy * y); ids are integers and have none.

    A row v of wte moves y[b,t] at every place where ids[b,t] is v, and at no other:

        y[b,t,c]  = (sum over v of (1 if ids[b,t] is v else 0) * wte[v,c]) + wpe[t,c]

        dwte[v,c] = sum over … of dy[b,t,c]
        dwpe[t,c] = sum over … of dy[b,t,c]             and 0 for positions that were not used

    Over which places does each sum run? Repeated ids must all count: np.add.at does that.
    """
    ids, wte, wpe = saved
    # yours
    dwte = np.zeros_like(wte)
    np.add.at(dwte, ids, dy)
    dwpe = np.zeros_like(wpe)
    dwpe[: dy.shape[1]] = dy.sum(0)
    return dwte, dwpe


def case(rng, B, T, C, V, P):
    """Random arrays of these sizes, and what the terms are made of."""
    P = max(P, T)
    ids = rng.integers(0, max(2, V // 2), (B, T))
    ids[0, -1] = ids[0, 0]  # repeated, whatever was drawn
    wte, wpe = rng.standard_normal((V, C)), rng.standard_normal((P, C))
    dy = rng.standard_normal((B, T, C)) + 0.3
    values = Values(dy=dy, ids=ids, wte=wte, wpe=wpe, rows=all_of, places=sum_of_batch)
    counts = np.bincount(ids.reshape(-1), minlength=V)
    sets = {
        "dwte": {
            "rows of tokens that are repeated": (counts > 1)[:, None],
            "rows of tokens that are used": (counts > 0)[:, None],
            "rows of tokens that are not used": (counts == 0)[:, None],
        },
        "dwpe": {"positions that are not used": (np.arange(P) >= T)[:, None]},
    }

    def loss(forward, inputs):
        return float((dy * forward(ids, inputs["wte"], inputs["wpe"])[0]).sum())

    numbers = {"B": B, "T": T, "C": C, "V": V, "P": P}
    return Case((dy, (ids, wte, wpe)), values, {"wte": wte, "wpe": wpe}, loss, numbers, sets)


def all_of(v, dy):
    """Each row's sum over the places where its token stands."""
    total = np.zeros_like(v.wte)
    np.add.at(total, v.ids, dy)
    return total


def sum_of_batch(v, dy):
    """Each position's sum over the batch, 0 where there is none."""
    total = np.zeros_like(v.wpe)
    total[: dy.shape[1]] = dy.sum(0)
    return total


def last_of(v, dy):
    """What dwte[ids] += dy leaves: the last place of each token."""
    total = np.zeros_like(v.wte)
    total[v.ids] = dy
    return total


def first_of(v, dy):
    """The first place of each token alone."""
    total = np.zeros_like(v.wte)
    total[v.ids[::-1, ::-1]] = dy[::-1, ::-1]
    return total


def mean_of(v, dy):
    """The mean over a token's places."""
    counts = np.maximum(np.bincount(v.ids.reshape(-1), minlength=len(v.wte)), 1)
    return all_of(v, dy) / counts[:, None]


def over_batch_alone(v, dy):
    """The sum over the batch of what is left of each sequence's repeated tokens."""
    return sum(last_of(v.but(ids=v.ids[b : b + 1]), dy[b : b + 1]) for b in range(len(dy)))


def without_row_0(v, dy):
    """As if token 0 were padding."""
    total = all_of(v, dy)
    total[0] = 0
    return total


def total_of(v, dy):
    """The sum over all places, in every position."""
    total = np.zeros_like(v.wpe)
    total[: dy.shape[1]] = dy.sum((0, 1))
    return total


def terms(v):
    """The signed sums that the gradients are."""
    return {
        "dwte": (Term("dwte", "sum of dy over the places of each token", v.rows(v, v.dy)),),
        "dwpe": (Term("dwpe", "sum_B(dy)", v.places(v, v.dy)),),
    }


VARIANTS = (
    Variant(
        "LAST_WRITE_WINS",
        "keeps the last place of each token: dwte[ids] += dy adds once for repeated ids",
        lambda v: v.but(rows=last_of),
        ("dwte",),
    ),
    Variant(
        "FIRST_PLACE_ONLY", "keeps the first place of each token", lambda v: v.but(rows=first_of), ("dwte",)
    ),
    Variant(
        "MEAN_OF_PLACES",
        "is a mean over a token's places, not their sum",
        lambda v: v.but(rows=mean_of),
        ("dwte",),
    ),
    Variant(
        "REPEATS_IN_A_SEQUENCE_LOST",
        "counts a token that is repeated in one sequence once",
        lambda v: v.but(rows=over_batch_alone),
        ("dwte",),
    ),
    Variant(
        "ROW_0_LEFT_OUT",
        "leaves out token 0, which is no padding here",
        lambda v: v.but(rows=without_row_0),
        ("dwte",),
    ),
    Variant("SUMMED_OVER_T", "is summed over the positions too", lambda v: v.but(places=total_of), ("dwpe",)),
    Variant(
        "ROWS_FOR_DY",
        "is made of the looked-up rows where dy belongs",
        lambda v: v.but(dy=v.wte[v.ids]),
    ),
)

INVARIANTS = (
    Invariant(
        "dwte",
        "Every place gives its dy to one row, so the sum over rows of dwte is the sum over places of dy.",
        "is off by",
        lambda dwte, v: dwte.sum(0, keepdims=True) - v.dy.sum((0, 1)),
    ),
    Invariant(
        "dwpe",
        "Every place gives its dy to one position, so dwpe sums to what dy sums to.",
        "is off by",
        lambda dwpe, v: dwpe.sum(0, keepdims=True) - v.dy.sum((0, 1)),
    ),
)

HINTS = {
    "": (
        "If a token stands at three places, how many of the y move when its row moves?",
        "Each row sums dy over all of its places: a scatter that adds.",
        "np.add.at(dwte, ids, dy), and dwpe[:T] = dy.sum(0)",
    ),
    "LAST_WRITE": (
        "What does a[[3, 3]] += 1 make of a[3]? Try it.",
        "NumPy reads all rows first, adds, and writes: of repeated ids the last write stays.",
        "np.add.at(dwte, ids, dy)",
    ),
    "DWPE": (
        "How many sequences of the batch use position t?",
        "wpe[t] is shared by the batch: sum over b, not over t.",
        "dwpe[:T] = dy.sum(0)",
    ),
    "MEAN_OF": (
        "If a row is used three times, does one step of it count for a third?",
        "Gradients of shared numbers add up.",
        "np.add.at(dwte, ids, dy), without a division",
    ),
}

FAULTS = (
    Fault(
        "dwte[ids] += dy (harrrshall/numpygrad's negative control; HIPS/autograd #39, pytensor #2242)",
        ("EM_LAST_WRITE_WINS",),
        (("np.add.at(dwte, ids, dy)", "dwte[ids] += dy"),),
    ),
    Fault("dwte[ids] = dy", ("EM_LAST_WRITE_WINS",), (("np.add.at(dwte, ids, dy)", "dwte[ids] = dy"),)),
    Fault(
        "a loop over the batch with dwte[ids[b]] += dy[b]: repeats in a sequence are lost",
        ("EM_REPEATS_IN_A_SEQUENCE_LOST",),
        (("np.add.at(dwte, ids, dy)", "for i in range(len(ids)):\n    dwte[ids[i]] += dy[i]"),),
    ),
    Fault(
        "a mean over the places of a token (scale_grad_by_freq)",
        ("EM_MEAN_OF_PLACES",),
        (
            (
                "np.add.at(dwte, ids, dy)",
                "np.add.at(dwte, ids, dy)\n"
                "dwte /= np.maximum(np.bincount(ids.ravel(), minlength=len(wte)), 1)[:, None]",
            ),
        ),
    ),
    Fault("dwte transposed", ("EM_DWTE_TRANSPOSED",), (("return dwte", "return dwte.T"),)),
    Fault("dwte divided by the batch", ("EM_DWTE_OVER_B",), (("return dwte", "return dwte / len(ids)"),)),
    Fault(
        "only the rows that were used, in the order of the ids",
        ("EM_DWTE_SHAPE",),
        (("return dwte", "return dwte[np.unique(ids)]"),),
    ),
    Fault("the position table forgotten", ("EM_DWPE_ZERO",), (("dwpe[: dy.shape[1]] = dy.sum(0)", "pass"),)),
    Fault("one result for two tables", ("COUNT",), (("return dwte, dwpe", "return dwte"),)),
    Fault("dwpe not summed over the batch", ("EM_DWPE_SHAPE",), (("return dwte, dwpe", "return dwte, dy"),)),
    Fault("dwpe a mean over the batch", ("EM_DWPE_OVER_B",), (("dy.sum(0)", "dy.mean(0)"),)),
    Fault(
        "dwpe summed over the positions too",
        ("EM_SUMMED_OVER_T",),
        (("dy.sum(0)", "dy.sum((0, 1))"),),
    ),
    Fault("dwpe of the first sequence", ("EM_FIRST_ONLY",), (("dy.sum(0)", "dy[0]"),)),
    Fault("dwpe of the last sequence", ("EM_LAST_ONLY",), (("dy.sum(0)", "dy[-1]"),)),
    Fault(
        "token 0 taken for padding",
        ("EM_ROW_0_LEFT_OUT",),
        (("np.add.at(dwte, ids, dy)", "np.add.at(dwte, ids, dy)\ndwte[0] = 0"),),
    ),
    Fault(
        "counts for gradients",
        ("EM_DY_IGNORED",),
        (("np.add.at(dwte, ids, dy)", "np.add.at(dwte, ids, np.ones_like(dy))"),),
    ),
    Fault("added to the table itself", ("ARGUMENT_CHANGED",), (("np.zeros_like(wte)", "wte"),)),
    Fault("the two tables swapped", ("EM_ORDER",), (("return dwte, dwpe", "return dwpe, dwte"),)),
)

ALTERNATIVES = (
    """
    onehot = np.eye(len(wte))[ids.reshape(-1)]
    dwte = onehot.T @ dy.reshape(-1, dy.shape[-1])
    dwpe = np.pad(dy.sum(0), ((0, len(wpe) - dy.shape[1]), (0, 0)))
    return dwte, dwpe
    """,
    """
    dwte, dwpe = np.zeros(wte.shape), np.zeros(wpe.shape)
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            dwte[ids[b, t]] += dy[b, t]
            dwpe[t] += dy[b, t]
    return dwte, dwpe
    """,
    """
    rows, order = dy.reshape(-1, dy.shape[-1]), np.argsort(ids, axis=None, kind="stable")
    used, first = np.unique(ids.reshape(-1)[order], return_index=True)
    dwte = np.zeros_like(wte)
    dwte[used] = np.add.reduceat(rows[order], first, axis=0)
    dwpe = np.zeros_like(wpe)
    np.add.at(dwpe, np.broadcast_to(np.arange(ids.shape[1]), ids.shape), dy)
    return {"dwte": dwte, "dwpe": dwpe}
    """,
)

EXERCISE = Exercise(
    name="embedding",
    prefix="EM",
    solution=embedding_backward,
    forward=embedding_forward,
    shown=("embedding_forward",),
    gradients={"dwte": "VC", "dwpe": "PC"},
    sizes={"B": 3, "T": 5, "C": 7, "V": 13, "P": 11},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"wte": ("wte", "table", "E"), "wpe": ("wpe", "positions", "Q")},
    ops=("embedding",),
)
