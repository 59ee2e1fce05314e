"""Options of a forward that are called as an argument of ours: refused, or given to whom options= says."""

import functools
import inspect

import numpy as np
import pytest

from numgpt import InputError
from numgpt.gradcheck import check, findings, from_jax, from_module, from_torch, same, verdict

X = np.array([0.5, -1.5, 2.0])
GIVEN = {"seed": 3, "dtype": "float32", "laws": "pure"}
WHERE = {"check": check, "findings": findings, "verdict": verdict, "same": same}
NAMES = [(who, n) for who, f in WHERE.items() for n in GIVEN if n in inspect.signature(f).parameters]


class Scaled:
    """A pair whose forward has options with our names, and remembers what they were."""

    def __init__(self):
        self.values = []

    def forward(self, x, seed="own", *, dtype="own", laws="own"):
        """y = x²."""
        self.values.append({"seed": seed, "dtype": dtype, "laws": laws})
        return x * x, x

    def backward(self, dy, x):
        """dx = 2 x dy."""
        return (2 * x * dy,)


def call(who, forward, backward, /, *arrays, **given):
    """The four ask for a forward and a backward, or for two implementations."""
    if who == "same":
        return same((forward, backward), (forward, backward), *arrays, **given)
    result = WHERE[who](forward, backward, *arrays, **given)
    return list(result) if who == "findings" else result


@pytest.mark.parametrize(("who", "name"), NAMES)
def test_a_name_of_two_is_refused_until_options_says_whose_it_is(who, name):
    pair = Scaled()
    message = rf"^{who}: {name} is an argument of {who} and an option of the forward.*options={{'{name}': …}}"
    with pytest.raises(InputError, match=message):
        call(who, pair.forward, pair.backward, X, **{name: GIVEN[name]})
    assert not pair.values

    call(who, pair.forward, pair.backward, X, options={name: "theirs"})
    assert {values[name] for values in pair.values} == {"theirs"}

    pair.values.clear()
    call(who, pair.forward, pair.backward, X, **{name: GIVEN[name]}, options={})
    assert {values[name] for values in pair.values} == {"own"}

    call(who, pair.forward, pair.backward, X, **{name: GIVEN[name]}, options={name: "theirs"})
    assert pair.values[-1][name] == "theirs"


@pytest.mark.parametrize("who", WHERE)
def test_names_that_are_ours_alone_or_of_an_array_are_taken_as_ever(who):
    call(who, lambda x, power=2: (x**power, (x, power)), power_backward, X, seed=3, power=3)
    call(who, lambda x, power=2: (x**power, (x, power)), power_backward, X, options={"power": 3})
    call(who, lambda seed: (seed**2, (seed, 2)), power_backward, X, seed=3)
    call(who, lambda *arrays, **more: (arrays[0] ** 2, (arrays[0], 2)), power_backward, X, seed=3)
    partial = functools.partial(lambda x, seed: (x**2, (x, 2)), seed=1)
    call(who, partial, power_backward, X, seed=3, options={})


def power_backward(dy, saved):
    x, power = saved
    return (power * x ** (power - 1) * dy,)


@pytest.mark.parametrize("who", WHERE)
def test_options_that_are_called_options_or_as_a_half_are_given_by_it(who):
    def forward(x, options=None, backward=2, theirs=2):
        return x**2, (x, 2)

    with pytest.raises(InputError, match=rf"{who}: options is an argument .*options={{'options': …}}"):
        call(who, forward, power_backward, X, options={"power": 3})
    half = "theirs" if who == "same" else "backward"
    with pytest.raises(InputError, match=rf"{who}: {half} is an argument .*options={{'{half}': …}}"):
        call(who, forward, power_backward, X, **{half: 3})
    call(who, forward, power_backward, X, options={"options": 1, half: 3})


@pytest.mark.parametrize("who", WHERE)
def test_an_adapters_pair_has_the_options_of_what_it_adapts(who):
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Linear):
        def forward(self, x, seed=None):
            return super().forward(x) * (1 if seed is None else seed)

    def function(x, seed=1):
        return x * x * seed

    for forward, backward, *arrays in (
        (*from_torch(function), X),
        from_module(Module(3, 2).double(), X[None]),
    ):
        with pytest.raises(InputError, match="seed is an argument"):
            call(who, forward, backward, *arrays, seed=3)
        call(who, forward, backward, *arrays, options={"seed": 3})
    module = Module(3, 2).double()
    for sides in ((module, module), (function, (forward, backward))):
        with pytest.raises(InputError, match="seed is an argument"):
            same(*sides, X[None], seed=3)
    assert not same(module, module, X[None], options={"seed": 3}).rows[0].differs


def test_a_function_of_jax_has_its_options():
    pytest.importorskip("jax")

    def function(x, seed=1):
        return x * x * seed

    with pytest.raises(InputError, match="seed is an argument"):
        verdict(*from_jax(function), X, seed=3)
    assert verdict(*from_jax(function), X, options={"seed": 3}).word == "right"
