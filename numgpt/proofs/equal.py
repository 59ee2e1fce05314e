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
BOUNDED = "return np.where(abs(x.real) {} 64, np.copysign(64, x.real), x)"
FAR = "it keeps x² and x³ from overflowing; where they do not, σ is 0 or 1 there, and σ(1 − σ) is 0"
TAKES_INTO = "if names and engine.takes(backward, 'into'):"
PLACES = "options['into'] = [n and (self.grads[n], n in self._summed) for n in names]"
TAKES_SPARE = "if self.spare and engine.takes(backward, 'spare'):"
ROWS = "rows, drows = (x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]))"
ADD = "twin = engine.gpu_twin(add_at) if engine.on_gpu(array) else np.add.at"
COUNTED = "dlogits = np.where(counted[:, None], dlogits * (dy * (1 / count)), {}.dtype.type(0))"
VISIBLE = "visible = np.tri(T, S, S - T, dtype=bool, like={})"
TARGET = "dlogits[np.arange(len({}), like={}), {}] -= counted"
AT_TARGET = ("ids", "ids", "np.where(counted, ids, 0)")
ANYWHERE = ("ids", "np.where(counted, ids, 1)")
PUSHED = "dweight[start:start + T] {} dy.reshape(-1, T, C).sum(0)"

EQUAL = (
    Equal("positions_backward", PUSHED.format("="), (PUSHED.format("+="),), "dweight is 0 before"),
    Equal(
        "unembedding_backward",
        ROWS,
        (ROWS.replace("x.shape", "weight.shape"),),
        "weight (V, C) has as many columns as x (..., C)",
    ),
    Equal("masked_scores", VISIBLE.format("q"), (VISIBLE.format("k"),), "keys lie where their queries do"),
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
    Equal("gate", "x = bounded(x)", ("without x = bounded(x)",), FAR),
    Equal("bounded", BOUNDED.format(">"), ("return x",), FAR),
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
    Equal("Record._arrived", "if self.keep:", ("if True:",), MEMORY),
    Equal("Record._offers", TAKES_INTO, ("if False:",), INTO),
    Equal("Record._offers", PLACES, (f"without {PLACES}",), INTO),
    Equal("Record._offers", TAKES_SPARE, ("if False:",), SPARE),
    Equal("Record._offers", "options['spare'] = True", ("without options['spare'] = True",), SPARE),
    Equal("Record._add", "if self.keep:", ("if True:",), MEMORY),
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
)
# The key of a mutant → why it is equal.
REASONS = {(e.function, e.before, after): e.reason for e in EQUAL for after in e.after}
