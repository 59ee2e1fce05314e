"""A step of AdamW, behind a clip: two moments, two corrections, one decay.

The gradients of all tensors are scaled down together where their common norm is above CLIP. AdamW keeps a
running mean m of each gradient and v of its square, corrects both for their start at 0, and pulls matrices
towards 0 by a decay that the moments know nothing of. Biases and norms are not decayed.

Shapes: W, dW, gW, mW, vW (C, F) · b, db, gb, mb, vb (F) · norm a number · t, the number of this step, from 1
"""

import numpy as np

from ..exercise import Case, Exercise, Invariant, Probe, Term, Values, Variant
from .adamw_faults import ALTERNATIVES, FAULTS

LR = 0.03
BETA1 = 0.9
BETA2 = 0.97
EPS = 0.001  # large, so that its place shows
DECAY = 0.2
CLIP = 0.7


def clip_and_adamw_step(W, b, dW, db, moments, t):
    """(norm, gW, gb, mW, vW, mb, vb, new_W, new_b), all as new arrays; moments = (mW, vW, mb, vb) so far.

    With one norm of all numbers of dW and db, and for each tensor w with its gradient:

        g     = dw * CLIP / norm where norm > CLIP, else dw
        m     = BETA1 * m + (1 - BETA1) * g
        v     = BETA2 * v + (1 - BETA2) * …

    The moments began at 0: after t steps of a constant g, m is g * (1 - BETA1**t). So they are too small by

        mhat  = m / …
        vhat  = v / …
        new_w = w - LR * DECAY * w - LR * mhat / (sqrt(vhat) + EPS)       the decay for matrices alone
    """
    mW, vW, mb, vb = moments
    # yours
    norm = np.sqrt((dW * dW).sum() + (db * db).sum())
    factor = min(1.0, CLIP / norm)
    gW, gb = factor * dW, factor * db
    mW = BETA1 * mW + (1 - BETA1) * gW
    mb = BETA1 * mb + (1 - BETA1) * gb
    vW = BETA2 * vW + (1 - BETA2) * gW**2
    vb = BETA2 * vb + (1 - BETA2) * gb**2
    m_part, v_part = 1 - BETA1**t, 1 - BETA2**t
    step_W = mW / m_part / (np.sqrt(vW / v_part) + EPS)
    step_b = mb / m_part / (np.sqrt(vb / v_part) + EPS)
    new_W = W - LR * DECAY * W - LR * step_W
    new_b = b - LR * step_b
    return norm, gW, gb, mW, vW, mb, vb, new_W, new_b


def case(rng, C, F):
    """Random arrays of these sizes, and what the terms are made of."""
    W, b = rng.standard_normal((C, F)), rng.standard_normal(F)
    dW, db = rng.standard_normal((C, F)), rng.standard_normal(F)
    moments = [0.1 * rng.standard_normal(W.shape), 0.01 * rng.random(W.shape) + 0.001]
    moments += [0.1 * rng.standard_normal(b.shape), 0.01 * rng.random(b.shape) + 0.001]
    t = 3
    results = clip_and_adamw_step(W, b, dW, db, moments, t)
    names = ("norm", "gW", "gb", "mW", "vW", "mb", "vb")
    values = Values(
        **dict(zip(names, results)),
        **{
            "W": W,
            "b": b,
            "dW": dW,
            "db": db,
            "t": (t, t),
            "betas": (BETA1, BETA2),
            "news": (1 - BETA1, 1 - BETA2),
        },
        old=dict(zip(names[3:], moments)),
        norm_of=lambda v: np.sqrt((v.dW**2).sum() + (v.db**2).sum()),
        clipped=lambda v, d: d * min(1.0, CLIP / v.norm),
        first=lambda v, x: getattr(v, f"g{x}"),
        second=lambda v, x: getattr(v, f"g{x}") ** 2,
        decayed=lambda v, x: {"W": (1 - LR * DECAY) * v.W, "b": v.b}[x],
        step=step,
        late=lambda x: 1.0,
    )
    return Case((W, b, dW, db, tuple(moments), t), values, numbers={"C": C, "F": F, "LR": LR})


RESULTS = ("norm", "gW", "gb", "mW", "vW", "mb", "vb", "new_W", "new_b")


def corrected(v, x):
    """(mhat, vhat) of a tensor."""
    parts = [1 - beta**t for beta, t in zip((BETA1, BETA2), v.t)]
    return getattr(v, f"m{x}") / parts[0], getattr(v, f"v{x}") / parts[1]


def step(v, x):
    """mhat / (sqrt(vhat) + EPS)."""
    m, v = corrected(v, x)
    return m / (np.sqrt(v) + EPS)


def terms(v):
    """The signed sums that the gradients are."""
    found = {"norm": (Term("norm", "sqrt(sum(dW²) + sum(db²))", np.asarray(v.norm_of(v))),)}
    for x in ("W", "b"):
        found[f"g{x}"] = (Term(f"g{x}", f"d{x} * CLIP / norm", v.clipped(v, getattr(v, f"d{x}"))),)
        for place, (moment, new) in enumerate((("m", v.first), ("v", v.second))):
            beta, power = f"BETA{place + 1}", "²" if place else ""
            found[f"{moment}{x}"] = (
                Term("old", f"{beta} * {moment}{x}", v.betas[place] * v.old[f"{moment}{x}"]),
                Term("new", f"(1 - {beta}) * g{x}{power}", v.news[place] * new(v, x)),
            )
        kept = "(1 - LR * DECAY) * W" if x == "W" else "b"
        found[f"new_{x}"] = (
            Term("kept", kept, v.decayed(v, x)),
            Term("step", "LR * mhat / (sqrt(vhat) + EPS)", v.late(x) * LR * v.step(v, x), -1),
        )
    return {name: found[name] for name in RESULTS}


G, M, V = ("gW", "gb"), ("mW", "mb"), ("vW", "vb")
NEW = ("new_W", "new_b")


def clipping(factor):
    """The values with another factor of the clip."""
    return lambda v: v.but(clipped=lambda v, d: d * factor(v, d))


def norm_by(of):
    """The values with another norm."""
    return lambda v: v.but(norm_of=of)


def stepping(of):
    """The values with another step, of(v, mhat, vhat, x)."""
    return lambda v: v.but(step=lambda v, x: of(v, *corrected(v, x), x))


VARIANTS = (
    Variant(
        "NORM_SQUARED", "lacks its root", norm_by(lambda v: (v.dW**2).sum() + (v.db**2).sum()), ("norm",)
    ),
    Variant(
        "NORM_OF_SIZES",
        "sums sizes, not squares",
        norm_by(lambda v: abs(v.dW).sum() + abs(v.db).sum()),
        ("norm",),
    ),
    Variant(
        "NORM_OF_W_ALONE",
        "is of dW alone: db belongs to it",
        norm_by(lambda v: np.linalg.norm(v.dW)),
        ("norm",),
    ),
    Variant(
        "NORMS_ADDED",
        "is the sum of the two norms, where the squares of all numbers are added under one root",
        norm_by(lambda v: np.linalg.norm(v.dW) + np.linalg.norm(v.db)),
        ("norm",),
    ),
    Variant(
        "NORM_A_MEAN",
        "is the root of the mean square, where the sum of squares belongs",
        norm_by(lambda v: np.sqrt(((v.dW**2).sum() + (v.db**2).sum()) / (v.dW.size + v.db.size))),
        ("norm",),
    ),
    Variant(
        "NORM_AFTER_CLIP",
        "is the norm after the clip, where that before it is wanted",
        norm_by(lambda v: min(CLIP, np.sqrt((v.dW**2).sum() + (v.db**2).sum()))),
        ("norm",),
    ),
    Variant("NOT_CLIPPED", "is not clipped", clipping(lambda v, d: 1.0), G),
    Variant(
        "CLIPPED_PER_TENSOR",
        "is clipped by its own norm: one norm of all tensors scales all, or the direction changes",
        clipping(lambda v, d: min(1.0, CLIP / np.linalg.norm(d))),
        G,
    ),
    Variant(
        "CLIPPED_BY_VALUE",
        "is clipped number by number, which changes its direction",
        lambda v: v.but(clipped=lambda v, d: np.clip(d, -CLIP, CLIP)),
        G,
    ),
    Variant(
        "NORM_1_FOR_CLIP",
        "is divided by norm, and not multiplied by CLIP",
        clipping(lambda v, d: 1 / v.norm),
        G,
    ),
    Variant(
        "EPS_IN_CLIP",
        "is divided by norm + 1e-6, as PyTorch's clip does it: here it is norm",
        clipping(lambda v, d: CLIP / (v.norm + 1e-6)),
        G,
    ),
    Variant(
        "CLIP_TWICE",
        "is clipped twice: the factor is squared",
        clipping(lambda v, d: (CLIP / v.norm) ** 2),
        G,
    ),
    Variant(
        "BETAS_SWAPPED",
        "has the other moment's BETA",
        lambda v: v.but(betas=v.betas[::-1], news=v.news[::-1]),
        M + V,
    ),
    Variant(
        "WEIGHTS_SWAPPED",
        "weights the new by BETA and the old by 1 - BETA: it is to be the other way round",
        lambda v: v.but(betas=v.news, news=v.betas),
        M + V,
    ),
    Variant(
        "NEW_NOT_WEIGHTED",
        "adds the new without its factor 1 - BETA",
        lambda v: v.but(news=(1.0, 1.0)),
        M + V,
    ),
    Variant(
        "OF_UNCLIPPED",
        "is made of the gradient before the clip",
        lambda v: v.but(gW=v.dW, gb=v.db),
        M + V,
    ),
    Variant(
        "NOT_SQUARED",
        "is a mean of gradients, where their squares belong",
        lambda v: v.but(second=lambda v, x: getattr(v, f"g{x}")),
        V,
    ),
    Variant(
        "SIZE_FOR_SQUARE",
        "is a mean of sizes, where squares belong",
        lambda v: v.but(second=lambda v, x: abs(getattr(v, f"g{x}"))),
        V,
    ),
    Variant(
        "SQUARE_OF_M",
        "has the square of m, where that of the gradient belongs",
        lambda v: v.but(second=lambda v, x: getattr(v, f"m{x}") ** 2),
        V,
    ),
    Variant(
        "L2_NOT_DECOUPLED",
        "has DECAY * w in its gradient: that is Adam with L2, where AdamW decays w itself",
        lambda v: v.but(gW=v.gW + DECAY * v.W, gb=v.gb + DECAY * v.b),
        M + V,
    ),
    Variant(
        "NO_BIAS_CORRECTION",
        "uses m and v as they are, where mhat and vhat belong",
        lambda v: v.but(t=(np.inf, np.inf)),
        NEW,
    ),
    Variant("M_NOT_CORRECTED", "uses m, where mhat belongs", lambda v: v.but(t=(np.inf, v.t[1])), NEW),
    Variant("V_NOT_CORRECTED", "uses v, where vhat belongs", lambda v: v.but(t=(v.t[0], np.inf)), NEW),
    Variant(
        "T_TOO_SMALL",
        "corrects by t - 1: t counts from 1, and the first step divides by 1 - BETA",
        lambda v: v.but(t=(v.t[0] - 1, v.t[1] - 1)),
        NEW,
    ),
    Variant(
        "T_TOO_LARGE",
        "corrects by t + 1: t counts this step already",
        lambda v: v.but(t=(v.t[0] + 1, v.t[1] + 1)),
        NEW,
    ),
    Variant(
        "T_ALWAYS_1",
        "divides by 1 - BETA at each step, where 1 - BETA**t belongs",
        lambda v: v.but(t=(1, 1)),
        NEW,
    ),
    Variant(
        "EPS_INSIDE",
        "has EPS under the root: it is added to the root",
        stepping(lambda v, m, s, x: m / np.sqrt(s + EPS)),
        NEW,
    ),
    Variant("EPS_LEFT_OUT", "lacks EPS", stepping(lambda v, m, s, x: m / np.sqrt(s)), NEW),
    Variant(
        "EPS_BEFORE_CORRECTION",
        "adds EPS to the root of v before v is corrected",
        stepping(lambda v, m, s, x: m / (np.sqrt(s) + EPS / np.sqrt(1 - BETA2 ** v.t[1]))),
        NEW,
    ),
    Variant(
        "NOT_ROOTED",
        "divides by vhat, where its root belongs",
        stepping(lambda v, m, s, x: m / (s + EPS)),
        NEW,
    ),
    Variant("NOT_DIVIDED", "is not divided by the root of vhat", stepping(lambda v, m, s, x: m), NEW),
    Variant(
        "G_FOR_M",
        "steps along the gradient, where its running mean belongs: that is RMSprop",
        stepping(lambda v, m, s, x: getattr(v, f"g{x}") / (np.sqrt(s) + EPS)),
        NEW,
    ),
    Variant(
        "OLD_MOMENTS",
        "uses the moments from before this step",
        lambda v: v.but(**v.old),
        NEW,
    ),
    Variant("DECAY_MISSING", "is not decayed", lambda v: v.but(decayed=lambda v, x: v.W), ("new_W",)),
    Variant(
        "DECAY_WITHOUT_LR",
        "is decayed by DECAY, where LR * DECAY belongs",
        lambda v: v.but(decayed=lambda v, x: (1 - DECAY) * v.W),
        ("new_W",),
    ),
    Variant(
        "DECAY_ADDED",
        "grows by LR * DECAY, where it is to shrink",
        lambda v: v.but(decayed=lambda v, x: (1 + LR * DECAY) * v.W),
        ("new_W",),
    ),
    Variant(
        "DECAY_AFTER_STEP",
        "is decayed after the step, the step with it: W itself is decayed, before",
        lambda v: v.but(late=lambda x: 1 - LR * DECAY),
        ("new_W",),
    ),
    Variant(
        "DECAY_ON_BIAS",
        "is decayed: matrices alone are, biases and norms are not pulled to 0",
        lambda v: v.but(decayed=lambda v, x: (1 - LR * DECAY) * v.b),
        ("new_b",),
    ),
)


def ask_below_the_clip(function):
    """Whether a gradient below the clip is left as it is."""
    rng = np.random.default_rng(2)
    W, dW = rng.standard_normal((2, 2, 3))
    b, db = rng.standard_normal((2, 3))
    scale = 0.5 * CLIP / np.sqrt((dW**2).sum() + (db**2).sum())
    moments = (0 * W, 0 * W, 0 * b, 0 * b)
    returned = function(W, b, scale * dW, scale * db, moments, 1)
    got = np.asarray(returned["gW"] if isinstance(returned, dict) else returned[1])
    if np.allclose(got, scale * dW):
        return ""
    if np.allclose(got, 2 * scale * dW):
        return "a gradient whose norm is half of CLIP is made twice as large: a clip makes nothing larger"
    return "a gradient whose norm is below CLIP is changed: it is to stay as it is"


def ask_about_the_first_step(function):
    """Whether the first step is as long as the rate."""
    W, b = np.zeros((2, 3)), np.zeros(3)
    dW, db = np.full((2, 3), 1e-3), np.full(3, 1e-3)
    returned = function(W, b, dW, db, (0 * W, 0 * W, 0 * b, 0 * b), 1)
    got = np.asarray(returned["new_W"] if isinstance(returned, dict) else returned[7])
    wanted = LR * 1e-3 / (1e-3 + EPS)
    if np.allclose(got, -wanted):
        return ""
    return f"the first step from 0, with a gradient of 0.001, is {-got[0, 0]:.6g}, expected {wanted:.6g}"


INVARIANTS = (
    Invariant(
        "gb",
        "One factor scales all tensors, or the step turns away from the gradient: gb * norm is db * CLIP.",
        "is off by",
        lambda gb, v: gb * v.norm - v.db * CLIP,
    ),
    Invariant(
        "gW",
        "One factor scales all tensors, or the step turns away from the gradient: gW * norm is dW * CLIP.",
        "is off by",
        lambda gW, v: gW * v.norm - v.dW * CLIP,
    ),
)

HINTS = {
    "": (
        "Which of norm, g, m, v, mhat, vhat and decay does the line that is wrong use?",
        "m is a running mean of g, v of g squared; both are divided by 1 - BETA**t; W alone decays.",
        "new_W = W - LR * DECAY * W - LR * (m / (1 - BETA1**t)) / (sqrt(v / (1 - BETA2**t)) + EPS)",
    ),
    "NORM": (
        "If dW and db were one long vector, what would its length be?",
        "Squares of all numbers are added under one root.",
        "norm = np.sqrt((dW**2).sum() + (db**2).sum())",
    ),
    "CLIP": (
        "In which direction does the step go, if one tensor is scaled and another is not?",
        "One factor for all: CLIP / norm where norm is above CLIP, else 1.",
        "factor = min(1.0, CLIP / norm); gW, gb = factor * dW, factor * db",
    ),
    "BELOW": (
        "What is min(1, CLIP / norm) where norm is below CLIP?",
        "A clip makes a gradient smaller, or leaves it.",
        "factor = min(1.0, CLIP / norm)",
    ),
    "SQUARE": (
        "Of what is v the running mean?",
        "Of the squares of the clipped gradient, so that its root is a size of gradients.",
        "vW = BETA2 * vW + (1 - BETA2) * gW**2",
    ),
    "L2": (
        "If DECAY * W is in the gradient, by what is it divided in the end?",
        "By the root of vhat, so that weights of large gradients hardly decay. AdamW decays W itself.",
        "new_W = W - LR * DECAY * W - …, and no DECAY in g, m and v",
    ),
    "DECAY": (
        "Which tensors are pulled to 0, by how much, and when?",
        "Matrices alone, by LR * DECAY of what they were before the step.",
        "new_W = W - LR * DECAY * W - LR * step_W, new_b = b - LR * step_b",
    ),
    "T_": (
        "At the first step, t is 1 and m is (1 - BETA1) * g. By what must it be divided to be g?",
        "By 1 - BETA1**t, with this step's t.",
        "mhat = m / (1 - BETA1**t), vhat = v / (1 - BETA2**t)",
    ),
    "CORRECT": (
        "m began at 0. After one step with g, how large is it, and how large is it to be?",
        "Both moments are divided by 1 - BETA**t.",
        "mhat = m / (1 - BETA1**t), vhat = v / (1 - BETA2**t)",
    ),
    "EPS": (
        "Where vhat is 0, by what is mhat to be divided?",
        "By EPS itself: it is added to the root of vhat, outside.",
        "mhat / (np.sqrt(vhat) + EPS)",
    ),
    "SWAPPED": (
        "Which moment forgets faster, and which one is made of squares?",
        "m goes with BETA1 and g, v with BETA2 and g squared.",
        "mW = BETA1 * mW + (1 - BETA1) * gW, vW = BETA2 * vW + (1 - BETA2) * gW**2",
    ),
}

AFTER = {f"new_{x}": (f"m{x}", f"v{x}") for x in "Wb"}
AFTER |= {f"{moment}{x}": (f"g{x}",) for moment in "mv" for x in "Wb"}
AFTER |= {f"g{x}": ("norm",) for x in "Wb"}

EXERCISE = Exercise(
    name="adamw",
    prefix="ADAMW",
    solution=clip_and_adamw_step,
    shown=("LR", "BETA1", "BETA2", "EPS", "DECAY", "CLIP"),
    gradients={
        "norm": "",
        "gW": "CF",
        "gb": "F",
        "mW": "CF",
        "vW": "CF",
        "mb": "F",
        "vb": "F",
        "new_W": "CF",
        "new_b": "F",
    },
    sizes={"C": 7, "F": 11},
    case=case,
    terms=terms,
    after=AFTER,
    variants=VARIANTS,
    invariants=INVARIANTS,
    probes=(Probe("BELOW_CLIP", ask_below_the_clip), Probe("FIRST_STEP", ask_about_the_first_step)),
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    constants={"LR": ("0.03", "0.011", "0.023"), "BETA1": ("0.9", "0.8"), "DECAY": ("0.2", "0.1", "0.3")},
)
