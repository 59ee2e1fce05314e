"""Op: a forward and a backward with the line that gives their shapes, from which calls are checked and tests
drawn.
"""

import functools
import inspect
import math
import re
from dataclasses import dataclass, field

import numpy as np

from .. import engine
from ..errors import InputError

_ARGUMENT = re.compile(
    r"(?P<lead>\.\.\.)?(?P<axes>(?:[A-Z]|\(\d*[A-Z]+\))*)(?:(?P<below>[<~])(?P<limit>[A-Z]))?(?P<optional>\?)?"
)


@dataclass(frozen=True)
class Argument:
    """One array of an op line: its axes, and for integers the size that they stay below."""

    name: str
    text: str
    lead: bool
    axes: tuple
    below: str | None
    limit: str | None
    optional: bool


@dataclass(frozen=True, eq=False)
class Op:
    """A pair of functions and its line.

    The line names the axes of each array by a letter each: "...C, C, C? -> ...C" is layernorm's.

        ...     any leading axes, the same for all arrays
        (3HD)   one axis, of size 3·H·D
        <V      integers from 0 to V − 1
        ~V      integers below V, of which the negative ones stand for none
        ?       may be None
        ()      a scalar

    parameters: the names of the trailing arrays that a model learns, as in its checkpoint.
    sizes: options whose value is the size of an axis, {"n_head": "H"}.
    at_least: axes that another bounds from below, {"S": "T"} for S ≥ T.
    noise: for an op that drops at random, the shape of its mask from its inputs and options.
    variants: further options worth checking, by name; a function of (rng, sizes) where they depend on the
    draw.
    """

    line: str
    forward: callable
    backward: callable
    parameters: tuple = ()
    sizes: dict = field(default_factory=dict)
    at_least: dict = field(default_factory=dict)
    noise: callable = None
    variants: dict = field(default_factory=dict)

    @functools.cached_property
    def name(self):
        """The op's name: its forward's without the ending."""
        return self.forward.__name__.removesuffix("_forward")

    @functools.cached_property
    def arguments(self):
        """The arrays of the line, in the forward's order."""
        names = list(inspect.signature(self.forward).parameters)
        return tuple(map(_argument, names, self.line.split("->")[0].split(",")))

    @functools.cached_property
    def result(self):
        """The value's entry in the line."""
        return _argument("result", self.line.split("->")[1])

    def check(self, arrays, options):
        """Raise InputError unless the arrays fit the line and lie in one place."""
        if len({engine.on_gpu(a) for a in arrays if a is not None}) > 1:
            lies = ", ".join(
                f"{a.name} {'on the GPU' if engine.on_gpu(x) else 'in the host memory'}"
                for a, x in zip(self.arguments, arrays)
                if x is not None
            )
            raise InputError(
                f"{self.name}: {lies}, expected all in one place: move what stays behind, a model by model.to"
            )
        _check_shapes(
            self,
            tuple(None if a is None else a.shape for a in arrays),
            tuple(options.get(o) for o in self.sizes),
        )
        for argument, array in zip(self.arguments, arrays, strict=True):
            if argument.limit and array is not None:
                size = _bind(
                    self,
                    [None if a is None else a.shape for a in arrays],
                    [options.get(o) for o in self.sizes],
                )[argument.limit]
                check_ids(f"{self.name}: {argument.name}", array, size, negative=argument.below == "~")

    def draw(self, rng, sizes, lead=(), dtype="float64"):
        """Random arrays that fit the line, and the options that the sizes give.

        sizes: letter -> size; lead: the leading axes. Floats are standard normal.
        """
        arrays = []
        for argument in self.arguments:
            shape = (lead if argument.lead else ()) + tuple(
                factor * math.prod(sizes[a] for a in letters) for factor, letters in argument.axes
            )
            if argument.limit is None:
                arrays.append(rng.standard_normal(shape).astype(dtype))
                continue
            ids = rng.integers(0, sizes[argument.limit], shape)
            if argument.below == "~":
                ids = np.where(rng.random(shape) < 0.3, -1, ids)
                ids.reshape(-1)[:1] = 0  # at least one counts
            arrays.append(ids)
        return arrays, {option: sizes[letter] for option, letter in self.sizes.items()}

    def __repr__(self):
        return f"<op {self.name}: {self.line}>"


def check_ids(who, ids, size, negative=False):
    """Raise InputError unless ids are integers from 0 (or below, if negative) to size − 1."""
    if ids.dtype.kind not in "iu":
        raise InputError(f"{who} has dtype {ids.dtype}, expected integers: convert with .astype(int)")
    if engine.on_gpu(ids) and engine.is_checked(ids, size, negative):
        return
    bad = ids >= size if negative else (ids >= size) | (ids < 0)
    if bad.any():
        ids = engine.home(ids)
        place = tuple(map(int, np.argwhere(engine.home(bad))[0]))
        raise InputError(
            f"{who} has {ids[place]} at {place}, expected {'at most' if negative else '0 to'} {size - 1}"
        )


def _argument(name, text):
    """Read one entry of an op line."""
    text = text.strip()
    if text == "()":
        return Argument(name, text, False, (), None, None, False)
    m = _ARGUMENT.fullmatch(text)
    assert m, f"op line: cannot read {text!r}"
    axes = []
    for part in re.findall(r"[A-Z]|\(\d*[A-Z]+\)", m["axes"]):
        factor = re.sub(r"\D", "", part)
        axes.append((int(factor or 1), tuple(re.findall("[A-Z]", part))))
    return Argument(name, text, bool(m["lead"]), tuple(axes), m["below"], m["limit"], bool(m["optional"]))


@functools.lru_cache(maxsize=4096)
def _check_shapes(op, shapes, sizes):
    """Bind the axes of the line to shapes; cached, since a training run asks the same question at every step."""
    bound = _bind(op, shapes, sizes)
    for larger, smaller in op.at_least.items():
        if bound[larger] < bound[smaller]:
            raise InputError(
                f"{op.name}: {smaller} = {bound[smaller]} is more than {larger} = {bound[larger]}, expected"
                f" {smaller} ≤ {larger}"
            )


def _bind(op, shapes, sizes):
    """Letter -> size, or InputError where the shapes contradict the line."""
    bound = {letter: size for letter, size in zip(op.sizes.values(), sizes) if size is not None}
    lead = None
    for argument, shape in zip(op.arguments, shapes, strict=True):

        def wrong():
            names = {a for _, letters in argument.axes for a in letters}
            known = ", ".join(f"{a} = {bound[a]}" for a in sorted(names) if a in bound)
            return InputError(
                f"{op.name}: {argument.name} has shape {shape}, expected ({argument.text})"
                + (f" with {known}" if known else "")
            )

        if shape is None:
            if not argument.optional:
                raise InputError(
                    f"{op.name}: {argument.name} is missing, expected an array ({argument.text})"
                )
            continue
        n = len(shape) - len(argument.axes)
        if n < 0 or (n > 0 and not argument.lead):
            raise wrong()
        if argument.lead:
            if lead is not None and shape[:n] != lead:
                raise InputError(
                    f"{op.name}: {argument.name} has leading axes {shape[:n]}, expected {lead} as in the"
                    " arrays before it"
                )
            lead = shape[:n]
        for (factor, letters), size in zip(argument.axes, shape[n:]):
            known = factor * math.prod(bound.get(a, 1) for a in letters)
            unknown = [a for a in letters if a not in bound]
            if size % known if unknown else size != known:
                raise wrong()
            if unknown:
                bound[unknown[0]] = size // known
                bound.update(dict.fromkeys(unknown[1:], 1))
    return bound
