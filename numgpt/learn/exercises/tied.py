"""A whole GPT with tied weights: the table that is used twice.

Tokens become vectors by the rows of wte, a block adds to them, a final norm makes them comparable, and the
logits are their products with the rows of the same wte. So wte is used at both ends, and its gradient is the
sum of two: one as a head, one as a table that was looked up. The block and the norm are given.

Shapes: ids (B, T) · wte (V, C) · wpe (P, C) · e, h, f (B, T, C) · logits, dlogits (B, T, V)
"""

import numpy as np

from ..exercise import Case, Exercise, Fault, Invariant, Term, Values, Variant

EPS = 1e-5


def block_forward(e, weight):
    """e + tanh(e weight): the residual block."""
    t = np.tanh(e @ weight)
    return e + t, (t, weight)


def block_backward(dh, saved):
    """Gradient of block_forward with respect to e: given, for you to call."""
    t, weight = saved
    return dh + (dh * (1 - t * t)) @ weight.T


def norm_forward(h):
    """(h - mean) / sqrt(variance + EPS): the final norm."""
    centred = h - h.mean(-1, keepdims=True)
    rstd = ((centred * centred).mean(-1, keepdims=True) + EPS) ** -0.5
    return centred * rstd, (centred * rstd, rstd)


def norm_backward(df, saved):
    """Gradient of norm_forward with respect to h: given, for you to call."""
    f, rstd = saved
    return rstd * (df - df.mean(-1, keepdims=True) - f * (df * f).mean(-1, keepdims=True))


def gpt_forward(ids, wte, wpe, weight):
    """e = wte[ids] + wpe, h = block(e), f = norm(h), logits = f wteᵀ."""
    e = wte[ids] + wpe[: ids.shape[1]]
    h, saved_block = block_forward(e, weight)
    f, saved_norm = norm_forward(h)
    return f @ wte.T, (ids, wte, wpe, f, saved_block, saved_norm)


def gpt_backward(dlogits, saved):
    """The gradients (df, dh, de, dwte, dwpe) of sum(dlogits * logits), in the order in which they come.

        logits = f wteᵀ         so df = …, and dwte has a part from here: the head's
        f = norm(h)             so dh = norm_backward(df, …)
        h = block(e)            so de = block_backward(dh, …)
        e = wte[ids] + wpe      so dwpe = …, and dwte has a part from here: the table's

    A row of wte is looked up at several places. A position that is not used has gradient 0.
    """
    ids, wte, wpe, f, saved_block, saved_norm = saved
    # yours
    df = dlogits @ wte
    dwte = np.einsum("btv,btc->vc", dlogits, f)
    dh = norm_backward(df, saved_norm)
    de = block_backward(dh, saved_block)
    np.add.at(dwte, ids, de)
    dwpe = np.zeros_like(wpe)
    dwpe[: ids.shape[1]] = de.sum(0)
    return df, dh, de, dwte, dwpe


def case(rng, B, T, C, V, P):
    """Random arrays of these sizes, and what the terms are made of."""
    P = max(P, T)
    ids = rng.integers(0, max(2, V // 2), (B, T))
    ids[0, -1] = ids[0, 0]
    inputs = {"wte": rng.standard_normal((V, C)), "wpe": rng.standard_normal((P, C))}
    weight = rng.standard_normal((C, C)) / C**0.5
    dlogits = rng.standard_normal((B, T, V)) + 0.2
    _, saved = gpt_forward(ids, *inputs.values(), weight)
    _, _, _, f, block, norm = saved
    values = Values(dy=dlogits, ids=ids, **inputs, f=f, block=block, norm=norm, rows=all_of, head=f)
    values = values.but(undo_norm=through_norm, undo_block=through_block)
    df = dlogits @ inputs["wte"]
    dh = norm_backward(df, norm)
    values = values.but(df=df, dh=dh, de=block_backward(dh, block), places=over_batch)

    def loss(forward, arrays):
        return float((dlogits * forward(ids, arrays["wte"], arrays["wpe"], weight)[0]).sum())

    counts = np.bincount(ids.reshape(-1), minlength=V)[:, None]
    sets = {
        "dwte": {
            "rows of tokens that are repeated": counts > 1,
            "rows of tokens that are looked up": counts > 0,
        },
        "dwpe": {"positions that are not used": (np.arange(P) >= T)[:, None]},
    }
    numbers = {"B": B, "T": T, "C": C, "V": V, "P": P}
    return Case((dlogits, saved), values, inputs, loss, numbers, sets)


def through_norm(v):
    """The gradient behind the final norm."""
    return norm_backward(v.df, v.norm)


def through_block(v):
    """The gradient behind the block."""
    return block_backward(v.dh, v.block)


def all_of(v):
    """The table's part: each row's sum over the places where its token stands."""
    total = np.zeros_like(v.wte)
    np.add.at(total, v.ids, v.de)
    return total


def last_of(v):
    """What dwte[ids] += de leaves."""
    total = np.zeros_like(v.wte)
    total[v.ids] = v.de
    return total


def over_batch(v):
    """Each position's sum over the batch, 0 where there is none."""
    total = np.zeros_like(v.wpe)
    total[: v.ids.shape[1]] = v.de.sum(0)
    return total


def over_all(v):
    """The sum over batch and positions, in every position that is used."""
    total = np.zeros_like(v.wpe)
    total[: v.ids.shape[1]] = v.de.sum((0, 1))
    return total


def terms(v):
    """The signed sums that the gradients are."""
    return {
        "df": (Term("df", "dlogits @ wte", v.dy @ v.wte),),
        "dh": (Term("dh", "norm_backward(df)", v.undo_norm(v)),),
        "de": (Term("de", "block_backward(dh)", v.undo_block(v)),),
        "dwte": (
            Term("head", "sum_BT of dlogits times f: the head's", np.einsum("btv,btc->vc", v.dy, v.head)),
            Term("table", "sum of de over each token's places: the table's", v.rows(v)),
        ),
        "dwpe": (Term("dwpe", "sum_B(de)", v.places(v)),),
    }


def seen_again(v):
    """The table's part of a write that overwrites the head's rows."""
    total = np.zeros_like(v.wte)
    total[v.ids] = v.de - np.einsum("btv,btc->vc", v.dy, v.head)[v.ids]
    return total


def as_of_h(v):
    """h itself, before the final norm."""
    return v.norm[0] / v.norm[1]


VARIANTS = (
    Variant(
        "LAST_WRITE_WINS",
        "keeps the last place of each token in the table's part: dwte[ids] += de adds once for repeated ids",
        lambda v: v.but(rows=last_of),
        ("dwte",),
    ),
    Variant(
        "TABLE_OVERWRITES_HEAD",
        "loses the head's part in the rows that are looked up: = where += belongs",
        lambda v: v.but(rows=seen_again),
        ("dwte",),
    ),
    Variant(
        "TABLE_OF_DH",
        "takes dh for the table, before the block is undone",
        lambda v: v.but(de=v.dh),
        ("dwte", "dwpe"),
    ),
    Variant(
        "TABLE_OF_DF",
        "takes df for the table, before norm and block are undone",
        lambda v: v.but(de=v.df),
        ("dwte", "dwpe"),
    ),
    Variant(
        "NORM_SKIPPED",
        "is df itself: the final norm is not undone",
        lambda v: v.but(undo_norm=lambda v: v.df),
        ("dh",),
    ),
    Variant(
        "NORM_STATISTICS_CONSTANT",
        "is rstd * df: the norm's mean and variance are taken for constants",
        lambda v: v.but(undo_norm=lambda v: v.norm[1] * v.df),
        ("dh",),
    ),
    Variant(
        "BLOCK_SKIPPED",
        "is dh itself: the block is not undone",
        lambda v: v.but(undo_block=lambda v: v.dh),
        ("de",),
    ),
    Variant(
        "BLOCK_GETS_DF",
        "gives the block df, before the norm is undone",
        lambda v: v.but(undo_block=lambda v: block_backward(v.df, v.block)),
        ("de",),
    ),
    Variant(
        "SUMMED_OVER_T",
        "is summed over the positions too",
        lambda v: v.but(places=over_all),
        ("dwpe",),
    ),
    Variant(
        "HEAD_OF_E",
        "takes what went into the block for the head, where f belongs",
        lambda v: v.but(head=v.wte[v.ids] + v.wpe[: v.ids.shape[1]]),
        ("dwte",),
    ),
    Variant(
        "HEAD_BEFORE_NORM",
        "takes h, less its mean, for the head, where f belongs",
        lambda v: v.but(head=v.f / v.norm[1]),
        ("dwte",),
    ),
)

INVARIANTS = (
    Invariant(
        "dwte",
        "Every place gives its de to one row, so dwte less the head's part sums over rows to the sum of de.",
        "is off by",
        lambda dwte, v: (dwte - np.einsum("btv,btc->vc", v.dy, v.f)).sum(0, keepdims=True) - v.de.sum((0, 1)),
    ),
    Invariant(
        "dh",
        "Adding a constant to h[b,t,:] does not change the logits, so dh sums to 0 over C.",
        "sums to",
        lambda dh, v: dh.sum(-1),
    ),
    Invariant(
        "dwpe",
        "Every place gives its de to one position, so dwpe sums to what de sums to.",
        "is off by",
        lambda dwpe, v: dwpe.sum(0, keepdims=True) - v.de.sum((0, 1)),
    ),
)

HINTS = {
    "": (
        "At how many places of the forward does wte stand?",
        "Twice: as the head's matrix, and as the table of the tokens. Its gradient is the sum of both.",
        "dwte = (sum over b and t of dlogits times f) + (de added at the rows ids)",
    ),
    "HEAD": (
        "What are the two factors of the logits?",
        "As a head, row v of wte gets f weighted by the gradient of its logit, at every place.",
        'np.einsum("btv,btc->vc", dlogits, f)',
    ),
    "TABLE": (
        "Which rows of wte did the tokens pick, and what is the gradient of what they picked?",
        "As a table, row v gets de at every place where its token stands, added to what the head gave.",
        "np.add.at(dwte, ids, de)",
    ),
    "LAST_WRITE": (
        "What does a[[3, 3]] += 1 make of a[3]? Try it.",
        "Of repeated ids the last write stays: a scatter that adds is needed.",
        "np.add.at(dwte, ids, de)",
    ),
    "NORM": (
        "Between h and the logits, what stands besides the head?",
        "The final norm is undone by norm_backward, with what it has saved.",
        "dh = norm_backward(df, saved_norm)",
    ),
    "DWPE": (
        "How many sequences use position t?",
        "wpe[t] is shared by the batch: sum over b, not over t.",
        "dwpe[:T] = de.sum(0)",
    ),
    "SUMMED_OVER": (
        "How many sequences use position t?",
        "wpe[t] is shared by the batch: sum over b, not over t.",
        "dwpe[:T] = de.sum(0)",
    ),
}

HEAD, TABLE = 'dwte = np.einsum("btv,btc->vc", dlogits, f)', "np.add.at(dwte, ids, de)"
FAULTS = (
    Fault("the head's part alone", ("TI_TABLE_TERM_MISSING",), ((TABLE, "pass"),)),
    Fault(
        "the table's part alone: the head's is computed, then dropped (Ultron09/Numpy-Transformer)",
        ("TI_HEAD_TERM_MISSING",),
        ((HEAD, "dwte = np.zeros_like(wte)"),),
    ),
    Fault(
        "a mean of the two parts (entrenar #314)",
        ("TI_DWTE_HALF",),
        (("return df, dh, de, dwte", "return df, dh, de, dwte / 2"),),
    ),
    Fault("repeated tokens keep the last place", ("TI_LAST_WRITE_WINS",), ((TABLE, "dwte[ids] += de"),)),
    Fault("the table's part in half", ("TI_TABLE_TERM_HALF",), ((TABLE, "np.add.at(dwte, ids, de / 2)"),)),
    Fault(
        "= where += belongs: the looked-up rows lose the head's part",
        ("TI_TABLE_OVERWRITES_HEAD",),
        ((TABLE, "dwte[ids] = de"),),
    ),
    Fault("the head's part subtracted", ("TI_HEAD_TERM_SIGN",), ((HEAD, HEAD.replace("np.", "-np.")),)),
    Fault(
        "the head's part of what went into the block",
        ("TI_HEAD_OF_E",),
        ((HEAD, HEAD.replace("f)", "wte[ids] + wpe[: ids.shape[1]])")),),
    ),
    Fault(
        "the head's part of h, before the norm",
        ("TI_HEAD_BEFORE_NORM",),
        ((HEAD, HEAD.replace("f)", "f / saved_norm[1])")),),
    ),
    Fault(
        "the final norm skipped", ("TI_NORM_SKIPPED",), (("dh = norm_backward(df, saved_norm)", "dh = df"),)
    ),
    Fault(
        "the norm's mean and variance taken for constants",
        ("TI_NORM_STATISTICS_CONSTANT",),
        (("dh = norm_backward(df, saved_norm)", "dh = saved_norm[1] * df"),),
    ),
    Fault("the block skipped", ("TI_BLOCK_SKIPPED",), (("de = block_backward(dh, saved_block)", "de = dh"),)),
    Fault("the block gets df", ("TI_BLOCK_GETS_DF",), (("block_backward(dh", "block_backward(df"),)),
    Fault("the table gets dh", ("TI_TABLE_OF_DH",), ((TABLE, "np.add.at(dwte, ids, dh)"),)),
    Fault("the table gets df", ("TI_TABLE_OF_DF",), ((TABLE, "np.add.at(dwte, ids, df)"),)),
    Fault("wpe summed over the positions", ("TI_SUMMED_OVER_T",), (("de.sum(0)", "de.sum((0, 1))"),)),
    Fault("wpe a mean over the batch", ("TI_DWPE_OVER_B",), (("de.sum(0)", "de.mean(0)"),)),
    Fault("wpe forgotten", ("TI_DWPE_ZERO",), (("dwpe[: ids.shape[1]] = de.sum(0)", "pass"),)),
    Fault("wpe gets dh", ("TI_TABLE_OF_DH",), (("de.sum(0)", "dh.sum(0)"),)),
    Fault(
        "dwte transposed, as the head uses it",
        ("TI_DWTE_TRANSPOSED",),
        (("return df, dh, de, dwte", "return df, dh, de, dwte.T"),),
    ),
    Fault(
        "all divided by the number of places once more",
        ("TI_DWTE_OVER_B_T", "TI_DWPE_OVER_B_T"),
        (("return df, dh, de, dwte, dwpe", "return df, dh, de, dwte / ids.size, dwpe / ids.size"),),
    ),
)

ALTERNATIVES = (
    """
    V, C = wte.shape
    df = np.einsum("btv,vc->btc", dlogits, wte)
    dh = norm_backward(df, saved_norm)
    de = block_backward(dh, saved_block)
    onehot = np.eye(V)[ids.reshape(-1)]
    dwte = dlogits.reshape(-1, V).T @ f.reshape(-1, C) + onehot.T @ de.reshape(-1, C)
    return df, dh, de, dwte, np.pad(de.sum(0), ((0, len(wpe) - ids.shape[1]), (0, 0)))
    """,
    """
    df = dlogits @ wte
    dh = norm_backward(df, saved_norm)
    de = block_backward(dh, saved_block)
    table, dwpe = np.zeros_like(wte), np.zeros_like(wpe)
    for b, row in enumerate(ids):
        for t, token in enumerate(row):
            table[token] += de[b, t]
            dwpe[t] += de[b, t]
    head = np.tensordot(dlogits, f, ([0, 1], [0, 1]))
    return {"df": df, "dh": dh, "de": de, "dwte": table + head, "dwpe": dwpe}
    """,
    """
    df = np.matmul(dlogits, wte)
    normed, rstd = saved_norm
    dh = (df - df.mean(-1, keepdims=True) - normed * (df * normed).mean(-1, keepdims=True)) * rstd
    t, weight = saved_block
    de = dh + (dh - dh * t**2) @ weight.T
    dwte = (dlogits.swapaxes(-1, -2) @ f).sum(0)
    np.add.at(dwte, ids.reshape(-1), de.reshape(-1, de.shape[-1]))
    dwpe = wpe * 0
    dwpe[: de.shape[1]] += np.einsum("btc->tc", de)
    return [df, dh, de, dwte, dwpe]
    """,
)

EXERCISE = Exercise(
    name="tied",
    prefix="TI",
    solution=gpt_backward,
    forward=gpt_forward,
    shown=("EPS", "block_forward", "block_backward", "norm_forward", "norm_backward", "gpt_forward"),
    gradients={"df": "BTC", "dh": "BTC", "de": "BTC", "dwte": "VC", "dwpe": "PC"},
    sizes={"B": 3, "T": 5, "C": 7, "V": 13, "P": 11},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    after={"dh": ("df",), "de": ("dh",), "dwte": ("de",), "dwpe": ("de",)},
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"wte": ("wte", "table", "E"), "wpe": ("wpe", "positions", "Q")},
    constants={"EPS": ("1e-5", "1e-3")},
    ops=("unembedding",),
)
