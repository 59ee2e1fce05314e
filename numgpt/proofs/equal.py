"""Changes that are no faults: the gradient stays the same, for the reason beside each.

A change that is no longer planted, or that a law catches, does not belong here; numgpt check --strength fails
on both.
"""

from __future__ import annotations

from typing import NamedTuple


class Equal(NamedTuple):
    """Changes of one line of a function, and why they change no gradient."""

    function: str
    before: str
    after: tuple[str, ...]
    reason: str


INTO = "a backward that is given no place for its gradients returns them, and _add puts them in place"
SPARE = "what the backward may write over, it need not"
MEMORY = "it only decides how long something is held, or whether a gradient nobody asked for is filed"
CLIP = "the clip keeps exp from overflowing and warning: beyond it σ is 0, and 1/(1 + ∞) is 0 too"
SHUT = "shut = z.real {} math.floor(np.log(np.finfo(x.dtype).max))"
SHUT_TO_0 = "return np.where(shut, 0, 1 / (1 + np.exp({})))"
BOUNDED = "return np.where(abs(x.real) {} most, np.copysign(most, x.real), x)"
CLAMPED = "return (np.where(gate.real {} LIMIT, x.dtype.type(LIMIT), gate), bounded(value, LIMIT))"
SOFTMAX = "return (e / total, {}[..., 0])"
LOG_SOFTMAX = "scaled = (logits{}logits.real.max(-1, keepdims=True)) * (1 / temperature)"
WHERE_SEEN = "return np.where(probs.real {} 0, values, {})"
FAR = "it keeps x² and x³ from overflowing; where they do not, σ is 0 or 1 there, and σ(1 − σ) is 0"
TAKES_INTO = "if names and engine.takes(backward, 'into'):"
PLACES = "options['into'] = [n and (self.grads[n], n in self._summed) for n in names]"
TAKES_SPARE = "if self.spare and engine.takes(backward, 'spare'):"
ROWS = "rows, drows = (x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]))"
ADD = "twin = engine.gpu_twin(add_at) if engine.on_gpu(array) else np.add.at"
COUNTED = "dlogits = np.where(counted[:, None], dlogits * (dy * (1 / count)), {}.dtype.type(0))"
SEEN = "return np.where(visible(T, S, form, {}), scores, -np.inf)"
NO_INTERVAL = "if form.first is None and form.last is None:"
ASKED = "has_interval = form.first is not None or form.last is not None"
E_OF = "e = np.exp(np.where({}) * ({} / c))"
PARTS = ("attention_backward", "ffn_backward", "experts_backward")
DISTINCT = "the experts of a token differ, so no place is added to twice"
ONCE = "each expert, and each row, comes once, where zeros are"
SCATTERED = "add_at(flat, places, rows[:, None])"
PLACED = "flat = np.zeros((len(ids) * E, 1), a.dtype, like={})"
SIGNS: tuple[str, ...] = ("scores.real > 0, -scores, scores", "scores.real >= 0, scores, -scores")
SIGNS += ("scores.real < 0, scores, -scores", "c.real > 0, scores, -scores")
SIGNS += ("scores.real > 1, scores, -scores", "scores.real > 0, scores, scores")
E_ALIKE = (
    *(f"e = np.exp({sign}scores * (-2 / c))" for sign in ("", "-")),
    *(E_OF.format(signs, "-2") for signs in SIGNS),
    E_OF.format("scores.real > 0, scores, -scores", "2"),
)
SYMMETRIC = "4 e/(1 + e)² is the same for e and 1/e; the sign keeps exp from overflowing"
UNWANTED = "what nobody wants the gradient of is let go, whether it is computed or not"
MASKED = "return (dx, masked(dweight, weight_mask){}, None, dbias)"
DSCALE = "dscale = sum_rows(drows * (rows @ weight_q.astype({}))){}"
LEVELS_WANTED = "if {}:"
OF_EXPERTS = (
    "dx, grads = _back_by_expert(dy, x, groups, lambda dy_e, x_e, e: quantised_linear_backward(dy_e, (x_e,"
    " weight_q[e], weight_scale[e], has_bias), wanted), [{} for shape, wants in zip(shapes, wanted)])"
)
REFUSED = "it only decides whether a visibility that hides a query from all keys is refused"
SUM = "a sum gives the same gradient to both of its terms"
TARGET = "dlogits[np.arange(len({}), like={}), {}] -= counted"
PAIR = "chosen, {}, fixed_rejected, beta = saved"
DESIRABLE = "return (np.where(desirable.real {} 0, -slope, slope), None, None, None)"
BASE = "dx, dweight, dbias = linear_backward(dy, (x, weight, has_bias), wanted[{}])"
LORA_A = "dlora_a = product(rows.swapaxes(0, 1), dlows)"
LORA_B = "dlora_b = factor * together(product(lows.swapaxes(0, 1), drows), columns)"
LORA_WANTED = " if wanted[{}] else None"
IS_TARGET = "is_target = np.arange(V, like={}) == targets[..., None]"
AT_TARGET = ("ids", "ids", "np.where(counted, ids, 0)")
ANYWHERE = ("ids", "np.where(counted, ids, 1)")
PUSHED = "dweight[start:start + T] {} dy.reshape(-1, T, C).sum(0)"
OTHERWISE = (("not None", "and", "not None"), ("None", "or", "not None"), ("not None", "or", "None"))
TO_HEADS = "return (dq.reshape(*lead, H, T, {}.shape[-1]), dk)"
BACK_TO_PACKED = "split_heads(dqkv, n_head, n_kv_head)[which][...] {} dy"
DWEIGHT = "dweight = product(rows.swapaxes(0, 1), drows)"
UNEMBEDDED = "return (product(dy, weight), product(drows.swapaxes(0, 1), rows){})"
WANTED = " if wanted[0] else None"
TAKES_WANTED = "if names != owned and engine.takes(backward, 'wanted'):"
ARE_WANTED = "options['wanted'] = tuple((n is not None for n in names))"
SCALED, OF_QUERIES = "dy = r.back('scale', dy)", "dqkv = r.back('ln_q', dqkv)"
OF_LOGITS = "dlogits = r.back('logit_scale', dlogits)"
COMMUTES = "a factor acts on each entry by itself, as a dropout and the slope of a cap do: in either order"
APART = "the norms of queries and of keys act on channels of their own, in either order"
# Of the backward of each block: a line, and lines that do the same.
SUMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pre_norm": (
        ("dx, da = r.back('out', dy)", "da, dx = r.back('out', dy)"),
        (
            "dx = dx + r.back('ln_2', r.back('mlp', da))",
            "dx = dy + r.back('ln_2', r.back('mlp', da))",
            "dx = dx + r.back('ln_2', r.back('mlp', dx))",
        ),
        ("dx, da = r.back('mid', dx)", "da, dx = r.back('mid', dx)"),
        (
            "return dx + r.back('ln_1', r.back('attn', da))",
            "return dx + r.back('ln_1', r.back('attn', dx))",
        ),
    ),
    "out_norm": (
        ("dx, da = r.back('out', dy)", "da, dx = r.back('out', dy)"),
        (
            "dx = dx + r.back('mlp', r.back('ln_2', da))",
            "dx = dy + r.back('mlp', r.back('ln_2', da))",
            "dx = dx + r.back('mlp', r.back('ln_2', dx))",
        ),
        ("dx, da = r.back('mid', dx)", "da, dx = r.back('mid', dx)"),
        (
            "return dx + r.back('attn', r.back('ln_1', da))",
            "return dx + r.back('attn', r.back('ln_1', dx))",
        ),
    ),
    "both_norm": (
        ("dx, da = r.back('out', dy)", "da, dx = r.back('out', dy)"),
        (
            "dx = dx + r.back('ln_2', r.back('mlp', r.back('ln_2_out', da)))",
            "dx = dy + r.back('ln_2', r.back('mlp', r.back('ln_2_out', da)))",
            "dx = dx + r.back('ln_2', r.back('mlp', r.back('ln_2_out', dx)))",
        ),
        ("dx, da = r.back('mid', dx)", "da, dx = r.back('mid', dx)"),
        (
            "return dx + r.back('ln_1', r.back('attn', r.back('ln_1_out', da)))",
            "return dx + r.back('ln_1', r.back('attn', r.back('ln_1_out', dx)))",
        ),
    ),
    "parallel": (
        ("dx, da = r.back('out', dy)", "da, dx = r.back('out', dy)"),
        ("dn = r.back('mlp', da)", "dn = r.back('mlp', dx)"),
        ("dx, da = r.back('mid', dx)", "da, dx = r.back('mid', dx)", "dx, da = r.back('mid', dy)"),
        ("dn = dn + r.back('attn', da)", "dn = dn + r.back('attn', dx)"),
        ("return dx + r.back('ln_1', dn)", "return dy + r.back('ln_1', dn)"),
    ),
    "two_norm_parallel": (
        ("dx, da = r.back('out', dy)", "da, dx = r.back('out', dy)"),
        ("dn = r.back('mlp', da)", "dn = r.back('mlp', dx)"),
        ("dx, da = r.back('mid', dx)", "da, dx = r.back('mid', dx)", "dx, da = r.back('mid', dy)"),
        (
            "dx = dx + r.back('ln_1', r.back('attn', da))",
            "dx = dy + r.back('ln_1', r.back('attn', da))",
            "dx = dx + r.back('ln_1', r.back('attn', dx))",
        ),
    ),
    "post_norm": (
        ("dx, da = r.back('out', r.back('ln_2', dy))", "da, dx = r.back('out', r.back('ln_2', dy))"),
        ("dx = dx + r.back('mlp', da)", "dx = dx + r.back('mlp', dx)"),
        ("dx, da = r.back('mid', r.back('ln_1', dx))", "da, dx = r.back('mid', r.back('ln_1', dx))"),
        ("return dx + r.back('attn', da)", "return dx + r.back('attn', dx)"),
    ),
}

EQUAL = (
    Equal("positions_backward", PUSHED.format("="), (PUSHED.format("+="),), "dweight is 0 before"),
    Equal(
        "unembedding_backward",
        ROWS,
        (ROWS.replace("x.shape", "weight.shape"),),
        "weight (V, C) has as many columns as x (..., C)",
    ),
    Equal("masked_scores", SEEN.format("q"), (SEEN.format("k"),), "keys lie where their queries do"),
    Equal("visible", NO_INTERVAL, ("if False:",), "the causal order is an interval too, from 0 to the query"),
    Equal(
        "visible",
        ASKED,
        tuple(f"has_interval = form.first is {a} {b} form.last is {c}" for a, b, c in OTHERWISE),
        REFUSED,
    ),
    Equal("cap_slope", E_OF.format("scores.real > 0, scores, -scores", "-2"), E_ALIKE, SYMMETRIC),
    Equal(
        "_back",
        BACK_TO_PACKED.format("="),
        (BACK_TO_PACKED.format("+="),),
        "dqkv is 0 before",
    ),
    Equal(
        "attention_scores_backward",
        TO_HEADS.format("q"),
        (TO_HEADS.format("k"),),
        "queries and keys have heads of one size",
    ),
    Equal("embedding_backward", "if not wanted[0]:", ("if False:",), UNWANTED),
    Equal("linear_backward", DWEIGHT + WANTED, (DWEIGHT,), UNWANTED),
    Equal("unembedding_backward", UNEMBEDDED.format(WANTED), (UNEMBEDDED.format(""),), UNWANTED),
    Equal("Record._offers", TAKES_WANTED, ("if False:",), UNWANTED),
    Equal("Record._offers", ARE_WANTED, (f"without {ARE_WANTED}",), UNWANTED),
    *(Equal(layer, SCALED, (SCALED,), COMMUTES) for layer in PARTS),
    Equal("unembedded_backward", OF_LOGITS, (OF_LOGITS,), COMMUTES),
    Equal("attention_backward", OF_QUERIES, (OF_QUERIES,), APART),
    *(
        Equal(f"{block}_block_backward", before, tuple(after), SUM)
        for block, lines in SUMS.items()
        for before, *after in lines
    ),
    Equal(
        "cross_entropy_backward",
        TARGET.format(*AT_TARGET),
        (TARGET.format("top", *AT_TARGET[1:]),),
        "each row has an id and a maximum",
    ),
    Equal(
        "cross_entropy_backward",
        TARGET.format(*AT_TARGET),
        (TARGET.format("ids", "top", AT_TARGET[2]),),
        "both lie where the logits do",
    ),
    Equal(
        "cross_entropy_backward",
        TARGET.format(*AT_TARGET),
        tuple(TARGET.format("ids", "ids", at) for at in ANYWHERE),
        "where no target counts, nothing is taken",
    ),
    Equal(
        "cross_entropy_backward",
        COUNTED.format("dlogits"),
        (COUNTED.format("dy"),),
        "dy has the dtype of the logits, and 0 is 0",
    ),
    Equal(
        "token_logprobs_backward",
        IS_TARGET.format("targets"),
        (IS_TARGET.format("top"),),
        "both lie where the logits do",
    ),
    Equal(
        "ipo_backward",
        PAIR.format("rejected, fixed_chosen"),
        (PAIR.format("fixed_chosen, rejected"),),
        "both are taken away from the chosen one",
    ),
    Equal("kto_backward", "won, lost = sigmoids(gain)", ("lost, won = sigmoids(gain)",), "a product"),
    Equal(
        "kto_backward",
        DESIRABLE.format(">"),
        (DESIRABLE.format(">="),),
        "0 is neither good nor bad, and is not drawn",
    ),
    Equal(
        "lora_linear_backward",
        BASE.format(":2"),
        (BASE.format(":"),),
        "linear_backward reads the first two",
    ),
    Equal("lora_linear_backward", LORA_A + LORA_WANTED.format(2), (LORA_A,), UNWANTED),
    Equal("lora_linear_backward", LORA_B + LORA_WANTED.format(3), (LORA_B,), UNWANTED),
    Equal("low_rank_backward", LORA_A + LORA_WANTED.format(0), (LORA_A,), UNWANTED),
    Equal("low_rank_backward", LORA_B + LORA_WANTED.format(1), (LORA_B,), UNWANTED),
    Equal(
        "masked_linear_backward",
        MASKED.format(WANTED),
        (MASKED.format(""),),
        UNWANTED,
    ),
    Equal(
        "quantised_linear_backward",
        DSCALE.format("x.dtype", " if wanted[1] else None"),
        (DSCALE.format("x.dtype", ""),),
        UNWANTED,
    ),
    Equal(
        "quantised_linear_backward",
        DSCALE.format("x.dtype", " if wanted[1] else None"),
        (DSCALE.format("weight_q.dtype", " if wanted[1] else None"),),
        "a product of floats and integers is that of floats",
    ),
    Equal(
        "quantised4_linear_backward",
        LEVELS_WANTED.format("wanted[1] or (wanted[2] and weight_zero is not None)"),
        (
            LEVELS_WANTED.format("True"),
            LEVELS_WANTED.format("wanted[1] or (wanted[2] or weight_zero is not None)"),
            LEVELS_WANTED.format("wanted[1] or (wanted[2] and weight_zero is None)"),
            LEVELS_WANTED.format("wanted[1] or (wanted[2] and has_bias is not None)"),
        ),
        "zeros are wanted where scales are: one addition has both",
    ),
    Equal(
        "quantised4_linear_backward",
        "dscale = (dweight * levels).sum(-2) if wanted[1] else None",
        ("dscale = (dweight * levels).sum(-2)",),
        UNWANTED,
    ),
    Equal("quantised_embedding_backward", "if not wanted[1]:", ("if False:",), UNWANTED),
    Equal(
        "quantised_unembedding_backward",
        ROWS,
        (ROWS.replace("x.shape[-1]), dy", "weight_q.shape[-1]), dy"),),
        "weight_q (V, C) has as many columns as x (..., C)",
    ),
    Equal(
        "quantised_unembedding_backward",
        "dscale = sum_rows(drows * (rows @ q.swapaxes(0, 1))) if wanted[1] else None",
        ("dscale = sum_rows(drows * (rows @ q.swapaxes(0, 1)))",),
        UNWANTED,
    ),
    Equal(
        "expert_quantised_linear_backward",
        OF_EXPERTS.format("shape if wants else None"),
        (OF_EXPERTS.format("shape"),),
        UNWANTED,
    ),
    Equal(
        "expert_quantised4_linear_backward",
        "E, _, n = weight_q.shape",
        ("E, _, n = weight_scale.shape",),
        "both are of E experts and n outputs",
    ),
    Equal(
        "expert_quantised4_linear_backward",
        "given = [shape if wants else None for shape, wants in zip(shapes, wanted)]",
        ("given = [shape for shape, wants in zip(shapes, wanted)]",),
        UNWANTED,
    ),
    Equal("gate", "x = bounded(x)", ("without x = bounded(x)",), FAR),
    Equal(
        "clamped",
        CLAMPED.format(">"),
        (CLAMPED.format(">="),),
        "at 7 both are 7, and no number that is drawn lies there",
    ),
    Equal(
        "_with_part",
        "y = x.astype(np.result_type(x, part))",
        ("y = x.astype(np.result_type(part, part))", "y = x.astype(np.result_type(x, begin))"),
        "the part is made of x, and a model's arrays have one dtype",
    ),
    Equal("turned", "half = cos.shape[-1]", ("half = sin.shape[-1]",), "cos and sin have one shape"),
    Equal(
        "sigmoids", "left = x.real < 0", ("left = x.real < 1",), "up to 1 neither exp(x) nor exp(−x) is large"
    ),
    Equal("bounded", BOUNDED.format(">"), (BOUNDED.format(">="),), "at 64 both are 64"),
    Equal("gate", SHUT.format(">"), (SHUT.format(">="),), "σ there is below every normal number"),
    Equal("gate", SHUT_TO_0.format("np.where(shut, 0, z)"), (SHUT_TO_0.format("z"),), CLIP),
    Equal(
        "gate",
        SHUT_TO_0.format("np.where(shut, 0, z)"),
        (SHUT_TO_0.format("np.where(shut, 1, z)"),),
        "what is shut is 0 whatever exp gives",
    ),
    Equal(
        "Record.back",
        "entry = self._entries[full] if self.keep else self._entries.pop(full)",
        ("entry = self._entries[full]",),
        MEMORY,
    ),
    Equal("Record._arrived", "if full in self.kept:", ("if True:",), MEMORY),
    Equal("Record._offers", TAKES_INTO, ("if False:",), INTO),
    Equal("Record._offers", PLACES, (f"without {PLACES}",), INTO),
    Equal("Record._offers", TAKES_SPARE, ("if False:",), SPARE),
    Equal("Record._offers", "options['spare'] = True", ("without options['spare'] = True",), SPARE),
    Equal("Record._add", "if parameter in self.kept:", ("if True:",), MEMORY),
    Equal("Record.finish_backward", "if name in self.kept:", ("if True:",), MEMORY),
    Equal(
        "Record._add",
        "self.grad.pop(parameter, None)",
        ("without self.grad.pop(parameter, None)",),
        "it only decides the order of the names in record.grad",
    ),
    Equal(
        "add_at",
        ADD,
        ("twin = np.add.at", ADD.replace("on_gpu(array)", "on_gpu(ids)")),
        "ids lie where array does, and np.add.at adds the same terms as its twin, in an order of its own",
    ),
    Equal("scattered", PLACED.format("a"), (PLACED.format("chosen"),), "both lie in one place"),
    Equal(
        "scattered",
        SCATTERED,
        ("flat[places] = rows[:, None]", "flat[places] += rows[:, None]"),
        DISTINCT,
    ),
    Equal(
        "scattered",
        "return flat.reshape(*a.shape[:-1], E)",
        ("return flat.reshape(*chosen.shape[:-1], E)",),
        "there is a weight for each chosen expert",
    ),
    Equal(
        "softmax",
        "e = np.exp(logits - top)",
        ("e = np.exp(logits)", "e = np.exp(logits + top)"),
        "a softmax stays the same where all its scores are shifted; this shift keeps exp from overflowing",
    ),
    Equal(
        "softmax",
        SOFTMAX.format("(top + np.log(total))"),
        tuple(map(SOFTMAX.format, ("top", "np.log(total)", "(top - np.log(total))"))),
        "the backward of route takes the probabilities alone",
    ),
    Equal(
        "log_softmax",
        LOG_SOFTMAX.format(" - "),
        (LOG_SOFTMAX.format(" + "), "scaled = logits * (1 / temperature)"),
        "a softmax stays the same where all its scores are shifted; this shift keeps exp from overflowing",
    ),
    Equal(
        "where_seen",
        WHERE_SEEN.format(">", "0"),
        (WHERE_SEEN.format(">=", "0"), WHERE_SEEN.format(">", "1"), "return values"),
        "what is put there is multiplied by the probability, 0; it keeps 0 · ∞ out, where a logit is −∞",
    ),
    Equal(
        "apart",
        "rows[:, of_map] = lora_b[:, of_map]",
        ("rows[:, of_map] += lora_b[:, of_map]",),
        "each column is of one map, and zeros are there",
    ),
    *(
        Equal("expert_linear_backward", before, (before.replace("] = ", "] += "),), ONCE)
        for before in (
            "dx[group] = product(dy_e, weight[e].swapaxes(0, 1))",
            "dweight[e] = product(x_e.swapaxes(0, 1), dy_e)",
            "dbias[e] = sum_rows(dy_e)",
        )
    ),
    Equal(
        "balance_backward",
        "E = probs.shape[-1]",
        ("E = above.shape[-1]",),
        "both have a number for each expert",
    ),
    Equal("shared_experts_backward", "dy, ds = r.back('sum', dy)", ("ds, dy = r.back('sum', dy)",), SUM),
    Equal(
        "shared_experts_backward",
        "dgate, ds = r.back('opened', ds)",
        ("dgate, ds = r.back('opened', dy)",),
        SUM,
    ),
)
# The key of a mutant → why it is equal.
REASONS = {(e.function, e.before, after): e.reason for e in EQUAL for after in e.after}
