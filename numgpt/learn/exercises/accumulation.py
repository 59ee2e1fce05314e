"""Accumulation: micro-batches that do not count alike.

A batch that does not fit into memory is cut into micro-batches, and their gradients are added up. Each gives
the mean over its own targets. Where padding differs, these means are of unequally many targets; wanted is the
gradient of the whole batch, in which each target counts once.

Shapes: W, dW (C, V) · batches, a list of (x, targets) · x (b, T, C), targets (b, T) · b differs
"""

import numpy as np

from ..exercise import Case, Exercise, Fault, Invariant, Term, Values, Variant

IGNORE = -1


def loss_and_grad(W, x, targets):
    """(loss, dW, count): the mean surprise at the targets that are not IGNORE, its gradient, and how many."""
    logits = x @ W
    e = np.exp(logits - logits.max(-1, keepdims=True))
    probs = e / e.sum(-1, keepdims=True)
    b, t = np.nonzero(targets != IGNORE)
    count = len(b)
    chosen = probs[b, t, targets[b, t]]
    dlogits = np.zeros_like(probs)
    dlogits[b, t] = probs[b, t] / count
    dlogits[b, t, targets[b, t]] -= 1 / count
    return -np.log(chosen).mean(), np.einsum("btc,btv->cv", x, dlogits), count


def accumulated(W, batches):
    """(loss, dW) of the whole batch, from one call of loss_and_grad for each micro-batch.

    Let micro-batch i have n_i targets that count, and s_i be the sum of their surprises. Then

        loss_i = s_i / n_i                              because loss_and_grad takes a mean
        loss   = (s_1 + s_2 + …) / (n_1 + n_2 + …)      because each target of the whole counts once

    Write the second line with loss_i. dW follows by the same weights, because a gradient is linear.
    Leave W as it is: an optimizer's step comes after the last micro-batch.
    """
    # yours
    loss, dW, total = 0.0, np.zeros_like(W), 0
    for x, targets in batches:
        loss_i, dW_i, count = loss_and_grad(W, x, targets)
        loss = loss + count * loss_i
        dW = dW + count * dW_i
        total += count
    return loss / total, dW / total


def case(rng, M, B, T, C, V):
    """Random arrays of these sizes, and what the terms are made of."""
    W = rng.standard_normal((C, V)) / 2
    batches = []
    for i in range(M):
        rows = B + (i == M - 1)
        targets = rng.integers(0, V, (rows, T))
        targets.reshape(-1)[: 3 * i % targets.size] = IGNORE
        batches.append((rng.standard_normal((rows, T, C)), targets))
    parts = [loss_and_grad(W, *batch) for batch in batches]
    losses, grads = np.array([p[0] for p in parts]), np.stack([p[1] for p in parts])
    counts = np.array([float(p[2]) for p in parts])
    rows = np.array([float(len(targets)) for _, targets in batches])
    values = Values(losses=losses, grads=grads, weights=counts / counts.sum(), rows=rows / rows.sum())
    numbers = {"M": M, "N": counts.sum(), "rows": rows.sum(), "places": rows.sum() * T}
    whole = [np.concatenate(arrays) for arrays in zip(*batches)]
    return Case((W, batches), values, {"W": W}, lambda f, inputs: float(f(inputs["W"], *whole)[0]), numbers)


def terms(v):
    """The signed sums that the gradients are."""
    return {
        "loss": (Term("loss", "sum_i(n_i * loss_i) / N", np.asarray((v.weights * v.losses).sum())),),
        "dW": (Term("dW", "sum_i(n_i * dW_i) / N", np.tensordot(v.weights, v.grads, 1)),),
    }


def weighted(weights):
    """The values with other weights of the micro-batches."""
    return lambda v: v.but(weights=weights(v))


def only(v, place):
    """1 for one of the micro-batches, 0 for the others."""
    chosen = np.zeros_like(v.weights)
    chosen[place] = 1
    return chosen


VARIANTS = (
    Variant(
        "MEAN_OF_MEANS",
        "is the mean of the micro-batches' means: a target counts more where few others count",
        weighted(lambda v: np.ones_like(v.weights) / len(v.weights)),
    ),
    Variant(
        "SUM_OF_MEANS",
        "is the sum of the micro-batches' means: it grows with their number",
        weighted(lambda v: np.ones_like(v.weights)),
    ),
    Variant(
        "WEIGHTED_BY_ROWS",
        "weights each micro-batch by its rows, padding and all, where the targets count that are not IGNORE",
        weighted(lambda v: v.rows),
    ),
    Variant(
        "LAST_ONLY",
        "has the part of the last micro-batch alone: is there = where += belongs?",
        weighted(lambda v: v.weights * only(v, -1)),
    ),
    Variant(
        "LAST_MEAN_ONLY",
        "is the mean of the last micro-batch alone: nothing was added up",
        weighted(lambda v: only(v, -1)),
    ),
    Variant(
        "FIRST_FORGOTTEN",
        "lacks the part of the first micro-batch",
        weighted(lambda v: v.weights * (1 - only(v, 0))),
    ),
    Variant(
        "HALVED_EACH_TIME",
        "is halved at each micro-batch: (so far + new) / 2 forgets the first ones",
        weighted(lambda v: 0.5 ** np.arange(len(v.weights), 0, -1)),
    ),
    Variant(
        "COUNT_TWICE",
        "weights each micro-batch by the square of its count",
        weighted(lambda v: v.weights**2 / (v.weights**2).sum()),
    ),
)

CUT = "Where a batch is cut must not matter: in one piece it gives the mean over all targets that count."
INVARIANTS = (
    Invariant("loss", CUT, "differs from that by", lambda loss, v: loss - (v.weights * v.losses).sum()),
    Invariant("dW", CUT, "differs from that by", lambda dW, v: dW - np.tensordot(v.weights, v.grads, 1)),
)

HINTS = {
    "": (
        "How many targets does the whole batch have that count, and how much may each of them weigh?",
        "Turn each mean back into a sum by its count; divide by all counts at the end, once.",
        "loss = sum(count * loss_i) / sum(count), dW = sum(count * dW_i) / sum(count)",
    ),
    "MEAN": (
        "One micro-batch has 2 targets that count, one has 20. How much does each target weigh?",
        "A mean of means is the mean of all only where all counts are equal.",
        "dW = dW + count * dW_i for each, then dW / total",
    ),
    "ROWS": (
        "Does a place of padding have a part in the loss?",
        "loss_and_grad returns how many targets count: weight by that.",
        "_, _, count = loss_and_grad(W, x, targets)",
    ),
    "TIMES": (
        "By what is the sum over all targets to be divided?",
        "By the number of targets that count in the whole batch, once.",
        "return loss / total, dW / total",
    ),
    "OVER": (
        "How often do you divide?",
        "Once, by all targets that count: by the number of micro-batches not at all.",
        "return loss / total, dW / total",
    ),
    "LAST": (
        "What is left of the first micro-batch's gradient after the second?",
        "Add to what was there.",
        "dW = dW + count * dW_i",
    ),
}

LOSS, GRAD = "loss + count * loss_i", "dW + count * dW_i"
FAULTS = (
    Fault(
        "the mean of means (huggingface/transformers #34191, torchtune #1875, mlx-lm #1413)",
        ("ACC_MEAN_OF_MEANS",),
        ((LOSS, "loss + loss_i"), (GRAD, "dW + dW_i"), ("total += count", "total += 1")),
    ),
    Fault(
        "the loss that is printed is right, the gradient a mean of means",
        ("ACC_MEAN_OF_MEANS",),
        ((GRAD, "dW + dW_i"), ("dW / total", "dW / len(batches)")),
    ),
    Fault(
        "the gradient is right, the loss a mean of means",
        ("ACC_MEAN_OF_MEANS",),
        ((LOSS, "loss + loss_i"), ("loss / total", "loss / len(batches)")),
    ),
    Fault(
        "not divided by the number of micro-batches (nanoGPT #206)",
        ("ACC_SUM_OF_MEANS",),
        ((LOSS, "loss + loss_i"), (GRAD, "dW + dW_i"), ("loss / total, dW / total", "loss, dW")),
    ),
    Fault(
        "weighted by rows",
        ("ACC_WEIGHTED_BY_ROWS",),
        (
            ("total += count", "total += len(x)"),
            (LOSS, "loss + len(x) * loss_i"),
            (GRAD, "dW + len(x) * dW_i"),
        ),
    ),
    Fault(
        "weighted by places, padding and all (nanochat #59)",
        ("ACC_WEIGHTED_BY_ROWS",),
        (("= loss_and_grad(W, x, targets)\n", "= loss_and_grad(W, x, targets)\n    count = targets.size\n"),),
    ),
    Fault(
        "sums, not divided at all",
        ("ACC_LOSS_TIMES_N", "ACC_DW_TIMES_N"),
        (("loss / total, dW / total", "loss, dW"),),
    ),
    Fault("the gradient not divided", ("ACC_DW_TIMES_N",), (("dW / total", "dW"),)),
    Fault(
        "divided by the number of micro-batches too",
        ("ACC_DW_OVER_M",),
        (("dW / total", "dW / total / len(batches)"),),
    ),
    Fault(
        "divided by all places, padding and all",
        ("ACC_LOSS_TIMES_N_OVER_PLACES", "ACC_DW_TIMES_N_OVER_PLACES"),
        (("total += count", "total += targets.size"),),
    ),
    Fault(
        "divided by the rows",
        ("ACC_LOSS_TIMES_N_OVER_ROWS", "ACC_DW_TIMES_N_OVER_ROWS"),
        (("total += count", "total += len(x)"),),
    ),
    Fault("= where += belongs (zero-to-hero #52)", ("ACC_LAST_ONLY",), ((GRAD, "count * dW_i"),)),
    Fault(
        "the last micro-batch's results returned",
        ("ACC_LAST_MEAN_ONLY",),
        (("loss / total, dW / total", "loss_i, dW_i"),),
    ),
    Fault(
        "the first micro-batch forgotten",
        ("ACC_FIRST_FORGOTTEN",),
        (("total += count", "if total == 0:\n        loss, dW = 0.0, 0 * dW\n    total += count"),),
    ),
    Fault(
        "halves of halves: (so far + new) / 2",
        ("ACC_HALVED_EACH_TIME",),
        (
            (LOSS, "(loss + loss_i) / 2"),
            (GRAD, "(dW + dW_i) / 2"),
            ("loss / total, dW / total", "loss, dW"),
        ),
    ),
    Fault(
        "an optimizer's step in the loop",
        ("ARGUMENT_CHANGED",),
        (("total += count", "total += count\n    W -= 0.1 * dW_i"),),
    ),
    Fault(
        "results in another order",
        ("ACC_ORDER",),
        (("loss / total, dW / total", "dW / total, loss / total"),),
    ),
    Fault(
        "the loss in whole numbers", ("DTYPE",), (("loss / total,", "np.array([loss / total]).astype(int),"),)
    ),
)

ALTERNATIVES = (
    """
    x = np.concatenate([x for x, _ in batches])
    targets = np.concatenate([targets for _, targets in batches])
    return loss_and_grad(W, x, targets)[:2]
    """,
    """
    parts = [loss_and_grad(W, x, targets) for x, targets in batches]
    weights = np.array([count for _, _, count in parts]) / sum(count for _, _, count in parts)
    loss = weights @ np.array([loss for loss, _, _ in parts])
    return loss, np.einsum("i,icv->cv", weights, np.stack([dW for _, dW, _ in parts]))
    """,
    """
    loss, dW, seen = 0.0, np.zeros_like(W), 0
    for x, targets in batches:
        new_loss, new_dW, count = loss_and_grad(W, x, targets)
        seen += count
        loss += (new_loss - loss) * count / seen
        dW += (new_dW - dW) * (count / seen)
    return {"loss": loss, "dW": dW}
    """,
)

EXERCISE = Exercise(
    name="accumulation",
    prefix="ACC",
    solution=accumulated,
    forward=loss_and_grad,
    shown=("IGNORE", "loss_and_grad"),
    gradients={"loss": "", "dW": "CV"},
    sizes={"M": 3, "B": 2, "T": 5, "C": 11, "V": 13},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    says={
        "ACC_DW_OVER_M": "dW is divided by the number of micro-batches too: divide by all targets, once",
        "ACC_LOSS_TIMES_N_OVER_PLACES": "loss is divided by all places: count what is not IGNORE",
        "ACC_DW_TIMES_N_OVER_PLACES": "dW is divided by all places: count what is not IGNORE",
        "ACC_LOSS_TIMES_N_OVER_ROWS": "loss is divided by the number of rows: count targets",
        "ACC_DW_TIMES_N_OVER_ROWS": "dW is divided by the number of rows: count targets",
        "ACC_LOSS_TIMES_N": "loss is a sum over all targets: divide by their number",
        "ACC_DW_TIMES_N": "dW is a sum over all targets: divide by their number",
    },
    names={"batches": ("batches", "pieces", "chunks")},
    constants={"IGNORE": ("-1", "-100")},
)
