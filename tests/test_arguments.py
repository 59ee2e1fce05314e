"""Whatever is given to the public face: an InputError in our words, or what the docstring says."""

import collections.abc
import inspect
import itertools
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from public_calls import CALLS, PUBLIC, parameters
from right_values import SMALL, right_values

import numgpt
from numgpt import GPT, AdamW, Config, InputError
from numgpt.argument_kinds import WRONG as WRONG_VALUE
from numgpt.argument_kinds import kind_of
from numgpt.arguments import Count, DType, Size, checked
from numgpt.ops.op import OPTIONS, Op

MET = 3  # elements that are taken of an iterator
SCALARS = {int, float, bool, str, type(None)}

# Values of every kind that one meets by mistake.
WRONG = [
    None, True, False, np.bool_(True), -1, 0, 1.5, -0.5, 10**30, -(10**30), float("nan"), float("inf"),
    np.float32("nan"), 1j, "", "x", "0", "a\0b", "\ud800", b"", b"x", [], [[]], (), {}, {"w": 1}, set(),
    [None], [[0, 1], [2]], ["x"], [1.5], [[9]], [[-1]], (1, 2), (0.5, 0.5, 0.5), {1: 2}, object(), int, len,
    Ellipsis, np.array([0.01]), np.array(["x"]), np.array([None]), np.zeros((0, 3)), np.zeros((2, 2, 2)),
    np.array(1j), np.array([[0, 1]], np.uint8), np.array([np.nan]), slice(3), range(3), iter([1]),
    Path("x"), Path("x/y"), Exception("x"),
]  # fmt: skip
DRAWN = st.one_of(
    st.sampled_from(range(len(WRONG))).map(lambda i: WRONG[i]),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.one_of(st.integers(-3, 9), st.floats(), st.none()), max_size=3),
)


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return right_values(tmp_path_factory.mktemp("right"))


def documented(function):
    """The names of exceptions that a docstring speaks of."""
    return set(re.findall(r"\b[A-Z]\w*(?:Error|Finite)\b", inspect.getdoc(function) or ""))


def call(name, right, wrong):
    """Call something public with right arguments but for those that are given."""
    cls, called = PUBLIC[name]
    arguments = {n: right(name, p) for n, p in parameters(name).items()} | wrong
    function = called
    if cls is not None:
        attribute = inspect.getattr_static(cls, called)
        is_bound = isinstance(attribute, classmethod | staticmethod)
        place = name.rpartition(".")[0]
        function = getattr(cls if is_bound else right.instances[place], called)
    if cls is None and name.startswith("gradcheck") and "backward" in arguments:
        pair = arguments.pop("forward"), arguments.pop("backward")
        result = function(*pair, np.ones(2), **arguments)
    elif name == "gradcheck.same":
        result = function(arguments.pop("mine"), arguments.pop("theirs"), np.ones(2), **arguments)
    else:
        by_place = [n for n, p in parameters(name).items() if p.kind is p.POSITIONAL_ONLY]
        result = function(*(arguments.pop(n) for n in by_place), **arguments)
    if isinstance(result, collections.abc.Iterator):
        result = list(itertools.islice(result, MET))
    return result


def scalars(name, parameter):
    """The types of scalars that an annotation speaks of; None where it speaks of something else too."""
    cls, called = PUBLIC[name]
    function = called if cls is None else getattr(cls, called)
    if inspect.isclass(function):
        function = function.__init__
    if isinstance(function, Op):
        return None
    hint = typing.get_type_hints(inspect.unwrap(function)).get(parameter)
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    kinds = set(typing.get_args(hint)) if typing.get_origin(hint) is typing.Union else kinds
    return kinds if kinds and kinds <= SCALARS else None


def is_of(value, kinds):
    """Whether a value is of one of some types of scalars, NumPy's among them: a bool is no number."""
    if isinstance(value, bool | np.bool_):
        return bool in kinds
    if isinstance(value, int | np.integer):
        return bool({int, float} & kinds)
    if isinstance(value, float | np.floating):
        return float in kinds
    return type(value) in kinds


def refused_or_documented(name, right, wrong):
    """Call it; AssertionError for an exception of another kind, and for a value of another type."""
    cls, called = PUBLIC[name]
    may_raise = documented(called if cls is None else getattr(cls, called))
    ((parameter, value),) = wrong.items()
    kinds = scalars(name, parameter)
    try:
        call(name, right, wrong)
    except InputError as error:
        assert 0 < len(str(error).splitlines()) < 2
        return
    except OSError:
        assert isinstance(value, str | Path), f"{name}({parameter}={value!r})"
        return
    except Exception as error:
        if type(error).__name__ in may_raise or callable(value):  # what a caller's function raises is theirs
            return
        raise AssertionError(
            f"{name}({parameter}={value!r}) raised {type(error).__name__}: {error}, expected InputError"
        ) from error
    if kinds is not None and not is_of(value, kinds):
        raise AssertionError(f"{name} took {parameter}={value!r}, expected {kinds}")


@pytest.fixture
def anywhere(tmp_path, monkeypatch):
    """A folder in which paths that are drawn mean nothing, and engine and threads as they were."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
    numgpt.use("reference")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def is_endless(parameter, value):
    """Whether a right value would have us wait: so many tokens are drawn when they are asked for."""
    return (
        parameter in ("max_new_tokens", "n", "size", "shape", "batch_size")
        and isinstance(value, int)
        and value > 100
    )


@pytest.mark.parametrize("name", CALLS)
def test_the_right_arguments_of_this_law_are_taken(name, right, anywhere):
    if name in (
        "parity.reference",
        "gradcheck.from_jax",
        "gradcheck.from_torch",
        "parity.compare",
        "gradcheck.from_module",
    ):
        pytest.skip("takes what another library makes")
    call(name, right, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_wrong_value_is_refused_in_our_words_in_the_place_of_every_argument(name, right, anywhere):
    for parameter in parameters(name):
        for value in WRONG:
            if not is_endless(parameter, value):
                refused_or_documented(name, right, {parameter: value})


def hold(name, right, data):
    """The law for one argument that is drawn, of something public."""
    parameter = data.draw(st.sampled_from(sorted(parameters(name))))
    value = data.draw(DRAWN)
    assume(not is_endless(parameter, value))
    refused_or_documented(name, right, {parameter: value})


DRAWS = settings(suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", CALLS)
@settings(DRAWS, max_examples=10)
@given(data=st.data())
def test_what_is_wrong_is_refused_in_our_words(name, right, anywhere, data):
    hold(name, right, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@settings(DRAWS, max_examples=300)
@given(data=st.data())
def test_much_more_that_is_wrong_is_refused_in_our_words(name, right, anywhere, data):
    hold(name, right, data)


# What annotations say.


RIGHT = {
    int: [3, np.int64(3), np.uint8(3), np.array(3)],
    float: [0.5, 2, np.float32(0.5), np.float64(0.5), np.array(0.5), np.int32(2)],
    bool: [True, np.bool_(False)],
    Count: [0, np.int64(0)],
    Size: [1],
    str | None: ["x", None, np.str_("x")],
    tuple[float, float]: [(0.9, 0.99), [0.9, 0.99]],
    str | os.PathLike[str]: ["x", Path("x")],
    ArrayLike: [1, [1.5], np.ones(3), [[True]], (1, 2)],
    Sequence[str]: [["a"], ("a",), []],
    DType: ["float32", np.float64, np.dtype("complex128"), float],
    DType | None: ["float32", np.float64, None],
}
WRONG_OF = {
    int: [True, 1.0, np.float64(1), "1", None, np.array([1])],
    float: [True, "1", np.nan, np.inf, 10**400, 1j, np.array([0.5]), None],
    bool: [0, 1, None, "True", np.int64(1)],
    Count: [-1, 0.0],
    Size: [0],
    str | None: [b"x", 1],
    tuple[float, float]: [(0.9,), (0.9, "x"), 0.9, "ab"],
    str | os.PathLike[str]: ["", "a\0b", b"x", 3, "\ud800"],
    ArrayLike: ["x", None, [[1], [1, 2]], [object()], {}],
    Sequence[str]: ["abc", b"abc", [1], {"a"}],
    DType: [None, "x", "U3", 3, object],
    DType | None: ["x", "U3", 3, object],
}


@pytest.mark.parametrize("hint", RIGHT, ids=lambda hint: kind_of(hint).words)
def test_an_annotation_takes_its_values_numpys_too_and_gives_plain_ones(hint):
    for value in RIGHT[hint]:
        taken = kind_of(hint).convert(value)
        assert taken is not WRONG_VALUE, value
        assert not isinstance(taken, np.generic)
    for value in WRONG_OF[hint]:
        assert kind_of(hint).convert(value) is WRONG_VALUE, value


@pytest.mark.parametrize("name", CALLS)
def test_a_dtype_is_not_annotated_by_numpys_name_which_holds_none_in_some_versions(name):
    for parameter in parameters(name).values():
        assert "DTypeLike" not in str(parameter.annotation), f"{parameter.name}: annotate arguments.DType"


def test_a_message_names_the_function_the_argument_the_value_and_what_was_expected():
    @checked
    def f(n: Count, *, word: str = "x"):
        return n, word

    assert f(np.int64(2)) == (2, "x")
    with pytest.raises(InputError, match=r"^f: n is -1, expected an integer of 0 or more$"):
        f(-1)
    with pytest.raises(InputError, match=r"^f: word is an array of int64 of shape \(1,\), expected a str"):
        f(1, word=np.array([1]))
    with pytest.raises(InputError, match=r"^f: n is \[<object object>\], expected an integer"):
        f([object()])
    with pytest.raises(TypeError, match=r"^f\(\) got an unexpected keyword argument 'm'$"):
        f(1, m=2)
    with pytest.raises(TypeError, match=r"^f\(\) got .* 'wrd' \(did you mean word\?\)$"):
        f(1, wrd="y")


@pytest.mark.parametrize(
    ("thing", "name", "value", "kept"),
    [
        (lambda: GPT(Config(**SMALL)), "tokenizer", 3, None),
        (lambda: GPT(Config(**SMALL)), "config", "gpt2", Config(**SMALL)),
        (lambda: GPT(Config(**SMALL)), "params", {}, ...),
        (lambda: AdamW(GPT(Config(**SMALL))), "weight_decay", -1.0, 0.1),
        (lambda: AdamW(GPT(Config(**SMALL))), "betas", (0.9, 1.0), (0.9, 0.99)),
    ],
)
def test_an_attribute_is_held_to_what_the_constructor_takes(thing, name, value, kept):
    thing = thing()
    with pytest.raises(InputError, match=rf"^{type(thing).__name__}: {name} is .*, expected "):
        setattr(thing, name, value)
    assert kept is ... or getattr(thing, name) == kept


def test_a_class_below_a_held_one_may_take_what_it_likes():
    class Mine(GPT):
        def __init__(self, tokenizer: "Unknown"):  # noqa: F821
            super().__init__(Config(**SMALL))
            self.more = tokenizer

    assert Mine(3).more == 3
    with pytest.raises(TypeError, match=r"^generate\(\) got .* 'temprature' \(did you mean temperature\?\)$"):
        Mine(3).generate([[0]], 1, temprature=1)


def test_what_is_met_only_once_is_looked_at_as_it_is_taken():
    @checked
    def joined(texts: Iterable[str]):
        return "".join(texts)

    assert joined(c for c in "ab") == "ab"
    with pytest.raises(InputError, match="element 1 is 2, expected a string"):
        joined(x for x in ["a", 2])


@pytest.mark.parametrize("name", [name for name, (_, value) in PUBLIC.items() if isinstance(value, Op)])
def test_every_option_of_an_op_has_its_annotation(name):
    op = PUBLIC[name][1]
    arrays = {argument.name for argument in op.arguments}
    without = sorted(set(parameters(name)) - arrays - set(OPTIONS))
    assert not without, f"{name}: {', '.join(without)}: not in OPTIONS of numgpt/ops/op.py"


# What annotations do not say.
