"""Arrays that a caller gives: of another dtype, byte order or form they change no bit, or are refused."""

import numpy as np
import pytest

import numgpt
from numgpt import InputError
from numgpt.evaluation.score import score
from numgpt.model.generate import stream

SMALL = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 2, "n_embd": 4}


@pytest.fixture(scope="module")
def model():
    return numgpt.GPT(numgpt.Config(**SMALL), dtype="float64")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (lambda m: wider().params.like(), r"out: wte.weight has shape \(5, 6\), expected shape \(5, 4\)"),
        (lambda m: m.params, "out holds the parameters, which the gradients would replace"),
        (
            lambda m: type(m.params)(m.params.shapes, m.params.dtype, m.params.flat[:]),
            "out holds the parameters, which the gradients would replace",
        ),
        (lambda m: m.astype("float32").params.like(), "out is float32 in the host memory, expected float64"),
        (lambda m: dict(m.params), "out is {.*, expected a Flat, or None"),
    ],
)
def test_gradients_go_to_a_flat_of_the_models_own_names_dtype_and_memory(model, out, message):
    before = model.params.flat.copy()
    with pytest.raises(InputError, match=message):
        model.loss_and_grads([[0, 1]], [[1, 2]], out=out(model))
    assert np.array_equal(model.params.flat, before)


def wider():
    """A model with more channels."""
    return numgpt.GPT(numgpt.Config(**SMALL | {"n_embd": 6}), dtype="float64")


def test_parameters_are_those_of_the_config(model):
    with pytest.raises(
        InputError, match=r"GPT: params: wte.weight has shape \(5, 6\), expected shape \(5, 4\)"
    ):
        numgpt.GPT(model.config, params=wider().params)
    deeper = numgpt.Config(**SMALL | {"n_layer": 2})
    with pytest.raises(InputError, match=r"params: h.1.ln_1.weight is missing, expected shape \(4,\)"):
        numgpt.GPT(deeper, params=model.params)
    with pytest.raises(InputError, match=r"params: h.1.ln_1.weight has shape \(4,\), expected no such name"):
        numgpt.GPT(model.config, params=numgpt.GPT(deeper).params)


def test_numpys_scalars_of_the_right_kind_are_taken_everywhere(model):
    again = numgpt.GPT(model.config, seed=np.int64(3), dtype=np.dtype("float64"))
    assert type(again.seed) is int
    tokens = np.array([[0, 1]], np.uint8)
    loss = model.loss(tokens, np.int16([[1, 2]]), count=np.int32(2))
    assert loss == model.loss([[0, 1]], [[1, 2]])
    sampling = {"temperature": np.float32(0.5), "top_k": np.int8(3), "seed": np.uint64(7)}
    ids = model.generate(tokens, np.int64(3), **sampling)
    assert np.array_equal(ids, model.generate([[0, 1]], 3, temperature=0.5, top_k=3, seed=7))


def swapped(array):
    """The same numbers in the byte order that is not the machine's."""
    return np.asarray(array).astype(np.asarray(array).dtype.newbyteorder("S"))


ENTRANCES = {  # (model, order) → numbers, where arrays of the caller's enter
    "tokens": lambda m, order: m(order([0, 1, 2])),
    "targets": lambda m, order: m.loss([0, 1, 2], order([1, 2, 0])),
    "gradients": lambda m, order: m.loss_and_grads([0, 1, 2], order([1, -1, 0]))[1].flat,
    "ops": lambda m, order: numgpt.ops.cross_entropy(order(np.eye(3)), order([1, 2, 0])),
    "parameters": lambda m, order: numgpt.GPT(
        m.config, params=type(m.params)(m.params.shapes, m.params.dtype, order(m.params.flat))
    ).loss([0, 1], [1, 2]),
}


@pytest.mark.parametrize("engine", ["reference", "numba"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_the_byte_order_of_an_array_changes_no_bit(entrance, engine, model):
    enter = ENTRANCES[entrance]
    try:
        numgpt.use(engine)
        assert np.array_equal(enter(model, swapped), enter(model, np.asarray))
    finally:
        numgpt.use("reference")


@pytest.mark.parametrize("entrance", [e for e in ENTRANCES if e != "parameters"])
def test_a_masked_array_is_refused(entrance, model):
    with pytest.raises(InputError, match="mask"):
        ENTRANCES[entrance](model, lambda x: np.ma.masked_equal(x, 1))


@pytest.mark.parametrize(("own", "dtype"), [("float16", None), ("float32", "float64"), ("int64", None)])
def test_a_models_dtype_is_that_of_its_parameters(model, own, dtype):
    with pytest.raises(InputError, match="GPT: (params are float32, expected float64|dtype .* unknown)"):
        numgpt.GPT(model.config, dtype=dtype, params=model.params.astype(own))
    assert numgpt.GPT(model.config, params=model.params).params.dtype == "float64"


@pytest.mark.parametrize("ids", [[0.5, 1.7, 2.0], [[0, 1], [1, 2]], np.ma.masked_equal([0, 1, 2], 1)])
def test_a_score_is_of_integers_in_one_row(model, ids):
    with pytest.raises(InputError, match="eval: ids"):
        score(model, ids)


@pytest.mark.parametrize("tokens", [[0, 1], [[0.5, 1.7]], [[]], 1])
def test_a_stream_continues_rows_of_integers(model, tokens):
    with pytest.raises(InputError, match="generate: tokens"):
        next(stream(model, np.array(tokens), 1))
