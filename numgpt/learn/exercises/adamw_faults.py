"""What is wrong in a step of AdamW, as it is met, and other right ways to write it: they test the checker."""

from ..exercise import Fault

FACTOR = "gW, gb = factor * dW, factor * db"
STEPS = ("np.sqrt(vW / v_part) + EPS", "np.sqrt(vb / v_part) + EPS")
PARTS = "m_part, v_part = 1 - BETA1**t, 1 - BETA2**t"
LAST = "return norm, gW, gb, mW, vW, mb, vb, new_W, new_b"


def both(w, b):
    """A change in the two steps."""
    return ((STEPS[0], w), (STEPS[1], b))


FAULTS = (
    Fault(
        "each tensor clipped by its own norm",
        ("ADAMW_CLIPPED_PER_TENSOR",),
        ((FACTOR, "gW, gb = [d * min(1, CLIP / np.linalg.norm(d)) for d in (dW, db)]"),),
    ),
    Fault(
        "clipped by value",
        ("ADAMW_CLIPPED_BY_VALUE",),
        ((FACTOR, "gW, gb = np.clip(dW, -CLIP, CLIP), np.clip(db, -CLIP, CLIP)"),),
    ),
    Fault("not clipped", ("ADAMW_NOT_CLIPPED",), ((FACTOR, "gW, gb = dW, db"),)),
    Fault("the bias not clipped", ("ADAMW_NOT_CLIPPED",), ((FACTOR, "gW, gb = factor * dW, db"),)),
    Fault(
        "scaled to CLIP where the norm is below it",
        ("ADAMW_BELOW_CLIP",),
        (("min(1.0, CLIP / norm)", "CLIP / norm"),),
    ),
    Fault("divided by the norm alone", ("ADAMW_NORM_1_FOR_CLIP",), (("CLIP / norm", "1 / norm"),)),
    Fault("PyTorch's norm + 1e-6", ("ADAMW_EPS_IN_CLIP",), (("CLIP / norm", "CLIP / (norm + 1e-6)"),)),
    Fault(
        "the norm without its root",
        ("ADAMW_NORM_SQUARED",),
        (("np.sqrt((dW * dW).sum() + (db * db).sum())", "(dW * dW).sum() + (db * db).sum()"),),
    ),
    Fault("the norm of the matrix alone", ("ADAMW_NORM_OF_W_ALONE",), ((" + (db * db).sum()", ""),)),
    Fault(
        "norms added",
        ("ADAMW_NORMS_ADDED",),
        (("np.sqrt((dW * dW).sum() + (db * db).sum())", "np.linalg.norm(dW) + np.linalg.norm(db)"),),
    ),
    Fault(
        "the mean for the sum in the norm",
        ("ADAMW_NORM_A_MEAN",),
        (
            (
                "(dW * dW).sum() + (db * db).sum())",
                "((dW * dW).sum() + (db * db).sum()) / (dW.size + db.size))",
            ),
        ),
    ),
    Fault(
        "the norm after the clip",
        ("ADAMW_NORM_AFTER_CLIP",),
        ((LAST, LAST.replace("norm", "min(norm, CLIP)")),),
    ),
    Fault("t from 0: t - 1", ("ADAMW_T_TOO_SMALL",), ((PARTS, PARTS.replace("**t", "**(t - 1)")),)),
    Fault("t off by one: t + 1", ("ADAMW_T_TOO_LARGE",), ((PARTS, PARTS.replace("**t", "**(t + 1)")),)),
    Fault("no t in the correction", ("ADAMW_T_ALWAYS_1",), ((PARTS, PARTS.replace("**t", "")),)),
    Fault("no correction", ("ADAMW_NO_BIAS_CORRECTION",), ((PARTS, "m_part = v_part = 1"),)),
    Fault("m not corrected", ("ADAMW_M_NOT_CORRECTED",), ((PARTS, PARTS.replace("1 - BETA1**t", "1")),)),
    Fault("v not corrected", ("ADAMW_V_NOT_CORRECTED",), ((PARTS, PARTS.replace("1 - BETA2**t", "1")),)),
    Fault(
        "L2 in the gradient, not decoupled (Adam's weight_decay in PyTorch)",
        ("ADAMW_L2_NOT_DECOUPLED", "ADAMW_DECAY_MISSING"),
        (
            (FACTOR, FACTOR + "\nkeep = gW\ngW = gW + DECAY * W"),
            ("W - LR * DECAY * W - LR * step_W", "W - LR * step_W"),
            (LAST, LAST.replace("gW", "keep")),
        ),
    ),
    Fault("no decay", ("ADAMW_DECAY_MISSING",), ((" - LR * DECAY * W", ""),)),
    Fault("decay without LR", ("ADAMW_DECAY_WITHOUT_LR",), (("LR * DECAY * W", "DECAY * W"),)),
    Fault("decay with the wrong sign", ("ADAMW_DECAY_ADDED",), (("- LR * DECAY * W", "+ LR * DECAY * W"),)),
    Fault(
        "decay of the new W",
        ("ADAMW_DECAY_AFTER_STEP",),
        (("W - LR * DECAY * W - LR * step_W", "(W - LR * step_W) * (1 - LR * DECAY)"),),
    ),
    Fault(
        "decay on the bias (and on norms)",
        ("ADAMW_DECAY_ON_BIAS",),
        (("b - LR * step_b", "b - LR * DECAY * b - LR * step_b"),),
    ),
    Fault(
        "eps inside the root",
        ("ADAMW_EPS_INSIDE",),
        both("np.sqrt(vW / v_part + EPS)", "np.sqrt(vb / v_part + EPS)"),
    ),
    Fault("no eps", ("ADAMW_EPS_LEFT_OUT",), both("np.sqrt(vW / v_part)", "np.sqrt(vb / v_part)")),
    Fault(
        "eps before the correction",
        ("ADAMW_EPS_BEFORE_CORRECTION",),
        both("(np.sqrt(vW) + EPS) / np.sqrt(v_part)", "(np.sqrt(vb) + EPS) / np.sqrt(v_part)"),
    ),
    Fault("no root", ("ADAMW_NOT_ROOTED",), both("vW / v_part + EPS", "vb / v_part + EPS")),
    Fault("not divided", ("ADAMW_NOT_DIVIDED",), both("1.0", "1.0")),
    Fault(
        "m, v swapped where they are returned",
        ("ADAMW_ORDER",),
        ((LAST, LAST.replace("mW, vW, mb, vb", "vW, mW, vb, mb")),),
    ),
    Fault(
        "the betas swapped",
        ("ADAMW_BETAS_SWAPPED",),
        (
            ("BETA1 * mW + (1 - BETA1)", "BETA2 * mW + (1 - BETA2)"),
            ("BETA2 * vW + (1 - BETA2)", "BETA1 * vW + (1 - BETA1)"),
        ),
    ),
    Fault(
        "the weights of old and new swapped",
        ("ADAMW_WEIGHTS_SWAPPED",),
        (("BETA1 * mW + (1 - BETA1) * gW", "(1 - BETA1) * mW + BETA1 * gW"),),
    ),
    Fault("the gradient not squared in v", ("ADAMW_NOT_SQUARED",), (("gb**2", "gb"),)),
    Fault("sizes for squares in v", ("ADAMW_SIZE_FOR_SQUARE",), (("gb**2", "abs(gb)"),)),
    Fault(
        "v of the gradient before the clip", ("ADAMW_OF_UNCLIPPED",), (("gW**2", "dW**2"), ("gb**2", "db**2"))
    ),
    Fault("v of m", ("ADAMW_SQUARE_OF_M",), (("gW**2", "mW**2"), ("gb**2", "mb**2"))),
    Fault(
        "the gradient added to m whole",
        ("ADAMW_NEW_NOT_WEIGHTED",),
        (("(1 - BETA1) * gW", "gW"), ("(1 - BETA1) * gb", "gb")),
    ),
    Fault(
        "RMSprop: the gradient for m",
        ("ADAMW_G_FOR_M",),
        (("step_W = mW / m_part", "step_W = gW"), ("step_b = mb / m_part", "step_b = gb")),
    ),
    Fault(
        "uphill",
        ("ADAMW_STEP_TERM_SIGN",),
        (("- LR * step_W", "+ LR * step_W"), ("- LR * step_b", "+ LR * step_b")),
    ),
    Fault("no LR", ("ADAMW_STEP_TERM_OVER_LR",), (("LR * step_b", "step_b"),)),
    Fault(
        "in place",
        ("ARGUMENT_CHANGED",),
        (("new_W = W - LR * DECAY * W - LR * step_W", "W -= LR * DECAY * W + LR * step_W\nnew_W = W"),),
    ),
)

ALTERNATIVES = (
    """
    norm = np.linalg.norm(np.concatenate([dW.ravel(), db]))
    factor = CLIP / norm if norm > CLIP else 1.0
    new = {"norm": norm}
    for name, w, d, m, v in (("W", W, dW, mW, vW), ("b", b, db, mb, vb)):
        g = d * factor
        m = m + (1 - BETA1) * (g - m)
        v = v + (1 - BETA2) * (g * g - v)
        rate = LR * np.sqrt(1 - BETA2**t) / (1 - BETA1**t)
        decay = DECAY if w.ndim > 1 else 0.0
        stepped = w * (1 - LR * decay) - rate * m / (np.sqrt(v) + EPS * np.sqrt(1 - BETA2**t))
        new |= {f"g{name}": g, f"m{name}": m, f"v{name}": v, f"new_{name}": stepped}
    return new
    """,
    """
    flat, g = np.concatenate([W.ravel(), b]), np.concatenate([dW.ravel(), db])
    m, v = np.concatenate([mW.ravel(), mb]), np.concatenate([vW.ravel(), vb])
    decay = np.concatenate([np.full(W.size, DECAY), np.zeros(b.size)])
    norm = (g @ g) ** 0.5
    g = g / max(1.0, norm / CLIP)
    m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
    new = flat - LR * (decay * flat + m / (1 - BETA1**t) / ((v / (1 - BETA2**t)) ** 0.5 + EPS))
    cut = [(a[: W.size].reshape(W.shape), a[W.size :]) for a in (g, m, v, new)]
    (gW, gb), (mW, mb), (vW, vb), (new_W, new_b) = cut
    return norm, gW, gb, mW, vW, mb, vb, new_W, new_b
    """,
    """
    norm = np.sqrt(np.einsum("cf,cf->", dW, dW) + np.einsum("f,f->", db, db))
    scale = np.where(norm > CLIP, CLIP / norm, 1.0)
    gW, gb = dW * scale, db * scale
    mW, mb = mW - (1 - BETA1) * (mW - gW), mb - (1 - BETA1) * (mb - gb)
    vW, vb = vW * BETA2 + np.square(gW) * (1 - BETA2), vb * BETA2 + np.square(gb) * (1 - BETA2)

    def stepped(w, m, v):
        mhat, vhat = m / (1 - np.power(BETA1, t)), v / (1 - np.power(BETA2, t))
        return w - LR * mhat / (EPS + vhat**0.5)

    shrunk = W - LR * DECAY * W
    return norm, gW, gb, mW, vW, mb, vb, stepped(shrunk, mW, vW), stepped(b, mb, vb)
    """,
)
