"""Where the time of a training step goes: seconds, operations and bytes by name."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import Size, checked
from ..errors import InputError
from ..layers.filed import arrays_in
from ..layers.layer import Layer
from ..layers.record import Record
from ..layers.transformer import loss
from ..model import checks
from ..model.gpt import GPT
from ..ops.cost import cost
from .optim import AdamW

Array = NDArray[Any]
OPTIMIZER = "AdamW"


class Part(NamedTuple):
    """What a name costs in a step, forward and backward: those of all blocks added up under h.*.

    forward, backward: seconds; an optimizer has no backward. flops: of matrix products. moved: bytes of the
    arrays that each direction reads and writes, each once.
    """

    forward: float
    backward: float
    flops: int
    moved: int

    @property
    def seconds(self) -> float:
        """Of both directions."""
        return self.forward + self.backward


class Profile(NamedTuple):
    """A step by name.

    parts: name → Part of the step as it runs, in the order in which values are made, the optimizer last.
    opened: name → Part of the ops within what ran as one piece, when they run one by one; {} for none.
    seconds: of the whole step, with what lies between its parts. All times are medians over the rounds.
    """

    parts: dict[str, Part]
    opened: dict[str, Part]
    seconds: float


class Watch(Record):
    """A Record that takes the time of what runs in one piece, and counts its operations and bytes."""

    pieces = True  # whether a layer may run as one

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.times: dict[str, list[float]] = {}  # name → seconds forwards, and backwards
        self.flops: dict[str, int] = {}
        self.moved: dict[str, int] = {}

    def is_plain(self, name: str) -> bool:
        """As in any Record, and only if this one lets layers run as one piece."""
        return self.pieces and super().is_plain(name)

    def run(self, full: str, op: Any, arrays: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        """As in any Record; operations are counted, of the backward's products too."""
        value, saved = super().run(full, op, arrays, options)
        counted = cost(op, arrays, options, value)
        self.flops[full] = counted.flops + counted.backward_flops
        return value, saved

    def __call__(self, name: str, op: Any, *inputs: Any, **options: Any) -> Any:
        """As in any Record; the time counts where the name ran in one piece."""
        full, start = self.scope + name, time.perf_counter()
        value = super().__call__(name, op, *inputs, **options)
        seconds = time.perf_counter() - start
        entry = self.entry(full)
        if entry is not None and _is_piece(entry):
            self.times[full] = [seconds, 0.0]
            self.moved[full] = self._bytes(full, entry, *inputs, value)
        return value

    def back(self, name: str, dy: Any) -> Any:
        """As in any Record; the same."""
        full = self.scope + name
        entry = self.entry(full)
        if entry is None or not _is_piece(entry):
            return super().back(name, dy)
        moved = self._bytes(full, entry, dy)
        start = time.perf_counter()
        dx = super().back(name, dy)
        self.times[full][1] = time.perf_counter() - start
        gradients = (self.grads[n] for n in self._owned(full, entry) if n in self.grads)
        self.moved[full] += moved + _bytes_of((dx, *gradients))
        return dx

    def _owned(self, full: str, entry: Any) -> list[str]:
        """The parameters of a piece: an op's, which may be shared, or all below a layer."""
        own = [n for n in entry.names if n is not None]
        return own or [n for n in self.params if n.startswith(f"{full}.")]

    def _bytes(self, full: str, entry: Any, *arrays: Any) -> int:
        """Bytes of what a piece reads, writes and saves, each array once."""
        parameters = (self.params[n] for n in self._owned(full, entry))
        return _bytes_of((*arrays, *parameters, entry.saved))


class Opened(Watch):
    """A Watch in which every op runs by itself."""

    pieces = False


def _is_piece(entry: Any) -> bool:
    """Whether what is filed ran as one: an op, or a layer's twin."""
    return not isinstance(entry.op, Layer) or bool(entry.saved)


def _bytes_of(arrays: tuple[Any, ...]) -> int:
    """Bytes of the arrays in nested tuples, each counted once."""
    places = {(a.__array_interface__["data"][0], a.nbytes) for a in arrays_in(arrays)}
    return sum(size for _, size in places)


@checked
def profile(model: GPT, tokens: Array, targets: Array, rounds: Size = 5) -> Profile:
    """The Profile of a training step with AdamW, at a rate of 0: the model stays as it is.

    Parameters
    ----------
    model : GPT
    tokens, targets : arrays of int (B, T)
    rounds : int
        Steps that are timed, after one that compiles kernels.

    Raises
    ------
    InputError
        For ids that the model does not have, and on the cupy engine, which does not wait for what it starts.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt import GPT, Config
    >>> from numgpt.training.profile import profile
    >>> model = GPT(Config(vocab_size=7, block_size=4, n_layer=2, n_head=2, n_embd=8))
    >>> tokens = np.zeros((2, 4), int)
    >>> list(profile(model, tokens, tokens).parts)[:3]
    ['wte', 'wpe', 'drop']
    """
    if engine.is_cupy():
        raise InputError("profile: the engine is cupy, expected numba or reference: see a GPU's own profiler")
    optimizer, grads = AdamW(model), model.params.like()
    inputs = checks.batch(model.config, model.params, tokens, targets)

    def step(kind: Callable[..., Watch]) -> tuple[Watch, float, float]:
        """(the record, seconds of the optimizer, and of the whole step)."""
        start = time.perf_counter()
        record = _both_ways(kind, model, inputs, grads, optimizer.steps)
        between = time.perf_counter()
        optimizer.step(grads, lr=0.0)
        end = time.perf_counter()
        return record, end - between, end - start

    whole = _rounds(lambda: step(Watch), rounds)
    records = [record for record, _, _ in whole]
    single = [record for record, _, _ in _rounds(lambda: step(Opened), rounds)]
    flops = {name: records[0].flops.get(name, _below(single[0].flops, name)) for name in records[0].times}
    parts = _added(records, flops)
    parts[OPTIMIZER] = Part(statistics.median(s for _, s, _ in whole), 0.0, 0, 7 * model.params.flat.nbytes)
    opened = {name: part for name, part in _added(single, single[0].flops).items() if name not in parts}
    return Profile(parts, opened, statistics.median(s for _, _, s in whole))


def _both_ways(kind: Any, model: GPT, inputs: tuple[Any, ...], grads: Any, step: int) -> Watch:
    """A forward and a backward of the loss, as in training."""
    with engine.session(model.params.dtype):
        options = {"seed": model.seed, "served": model.served, "grads": grads, "step": step, "spare": True}
        record: Watch = kind(model.params, model.config, **options)
        value = loss.forward(record, *inputs)
        loss.backward(record, np.ones_like(value))
    record.finish_backward()
    return record


def _rounds(step: Callable[[], Any], rounds: int) -> list[Any]:
    """What a step gives each time, but for the first, which compiles."""
    return [step() for _ in range(rounds + 1)][1:]


def _below(counts: dict[str, int], name: str) -> int:
    """The counts of all names below one."""
    return sum(n for other, n in counts.items() if other.startswith(f"{name}."))


def _added(records: Sequence[Watch], flops: dict[str, int]) -> dict[str, Part]:
    """General name → Part: medians over the records of what the blocks take together."""
    parts = {}
    for general, names in _general(records[0].times):
        forward, backward = (
            statistics.median(sum(r.times[n][way] for n in names) for r in records) for way in (0, 1)
        )
        moved = sum(records[0].moved[n] for n in names)
        parts[general] = Part(forward, backward, sum(flops.get(n, 0) for n in names), moved)
    return parts


def _general(names: Sequence[str] | dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(h.*.attn, [h.0.attn, h.1.attn, …]) in the order of their first."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"^h\.\d+", "h.*", name), []).append(name)
    yield from groups.items()
