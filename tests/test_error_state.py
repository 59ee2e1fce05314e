"""The caller's np.seterr is the caller's: what underflows in numgpt is 0, and raises nothing.

test_public_face.py runs every example of a docstring under all="raise"; here are the values that underflow.
"""

import tempfile

import numpy as np
import pytest

import numgpt
from numgpt import GPT, AdamW, Config, InputError, Trainer, Training, calculus, engine, gradcheck, ops, parity
from numgpt.evaluation import score
from numgpt.model.generate import texts
from numgpt.proofs.subjects import op_subjects
from numgpt.tokenizers import Characters

CONFIG = Config(vocab_size=7, block_size=6, n_layer=2, n_head=2, n_embd=8)
X, Y = np.random.default_rng(0).integers(0, 7, (2, 3, 6))
SCALES = {"sharp": 60.0, "small": 3e-20, "tiny": 1e-30}  # of weights: of attention, of squares, of products


def model_of(scale, dtype):
    model = GPT(CONFIG, 0, dtype, Characters("abcdefg"))
    model.params.flat *= SCALES[scale]
    return model


def direction(model):
    return {name: np.ones(array.shape) for name, array in model.params.items()}


def optimize(model):
    optimizer = AdamW(model)
    for _ in range(2):
        _, grads = model.loss_and_grads(X, Y)
        optimizer.norm(grads)
        optimizer.step(grads, lr=1e-2)
        optimizer.step({name: grad.copy() for name, grad in grads.items()}, lr=1e-2)


def files(model):
    with tempfile.TemporaryDirectory() as folder:
        for layout in ("numgpt", "hf"):
            model.save(f"{folder}/{layout}", layout)
            GPT.load(f"{folder}/{layout}")


CALLS = {
    "call": lambda m: m(X),
    "loss": lambda m: m.loss(X, Y),
    "loss_and_grads": lambda m: m.loss_and_grads(X, Y, step=1),
    "record": lambda m: m.record(X, Y, edit={"h.0.mlp.act": lambda a: 1e-3 * a}),
    "astype": lambda m: m.astype("float64").astype("float32"),
    "generate": lambda m: [m.generate(X, 3, temperature=t, top_p=0.9) for t in (1e-3, 1e-300, 1e300)],
    "texts": lambda m: list(texts(m, "ab", 5, temperature=1e-3)),
    "score": lambda m: score.score(m, X[0]),
    "AdamW": optimize,
    "save and load": files,
}
DERIVATIVES = {
    "hvp": lambda m: calculus.hvp(m, X, Y, direction(m)),
    "jvp": lambda m: calculus.jvp(m, X, direction(m)),
    "vjp": lambda m: calculus.vjp(m, X, np.full((3, 6, 7), 1e-200)),
    "gauss_newton": lambda m: calculus.gauss_newton(m, X, Y, direction(m)),
    "fisher": lambda m: calculus.fisher(m, X, direction(m)),
    "empirical_fisher": lambda m: calculus.empirical_fisher(m, X, Y, direction(m)),
    "noise scale": lambda m: calculus.gradient_noise_scale(m, X, Y),
    "top_eigenvalues": lambda m: calculus.top_eigenvalues(m, X, Y, 1),
    "gradient_norms": lambda m: calculus.gradient_norms(m, X, Y),
    "first_divergence": lambda m: parity.first_divergence(m, m.astype("float64"), X, Y),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CALLS)
def test_a_model_underflows_in_silence(each_engine, name, dtype, scale):
    model = model_of(scale, dtype)
    with np.errstate(all="raise"):
        CALLS[name](model)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_underflow_in_silence(name, scale):
    model = model_of(scale, "float32")
    with np.errstate(all="raise"):
        DERIVATIVES[name](model)


def scaled(subject, scale, dtype):
    """A subject's arrays, floats times scale."""
    arrays = (np.asarray(a) if isinstance(a, np.ndarray) else a for a in subject.arrays)
    return [(a * scale).astype(dtype) if getattr(a, "dtype", None) == "float64" else a for a in arrays]


@pytest.mark.parametrize("dtype", ["float64", "longdouble", "complex128"])
@pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
def test_ops_underflow_in_silence(each_engine, op, dtype):
    for scale in (1.0, 300.0, 1e-25, 1e-170, 1e-310):
        for subject in op_subjects(op, 0):
            arrays = scaled(subject, scale, dtype)
            with np.errstate(all="raise"):
                op(*arrays, **subject.options)


@pytest.mark.parametrize("scale", [300.0, 1e-25, 1e-170])
@pytest.mark.parametrize("op", [ops.gelu, ops.gelu_tanh, ops.layernorm, ops.linear], ids=lambda op: op.name)
def test_judges_underflow_in_silence(op, scale):
    subject = next(iter(op_subjects(op, 0)))
    arrays = scaled(subject, scale, "float64")
    with np.errstate(all="raise"):
        list(gradcheck.findings(op.forward, op.backward, *arrays, **subject.options))
        gradcheck.verdict(op.forward, op.backward, *arrays, **subject.options)


def test_a_run_underflows_in_silence(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("she sells sea shells by the sea shore. " * 40)
    with np.errstate(all="raise"):
        corpus = numgpt.prepare(text, split="tail")
        config = Config(vocab_size=corpus.tokenizer.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=16)
        model = GPT(config, tokenizer=corpus.tokenizer)
        Trainer(model, corpus, Training(steps=9, lr=3.0, warmup=0, eval_iters=2), tmp_path / "run").run()


def test_what_the_caller_set_holds_between_two_findings_and_after_a_session():
    square = lambda x: (x * x, x), lambda dy, x: (2 * x * dy,)
    with np.errstate(all="raise"):
        before = np.geterr()
        for _ in gradcheck.findings(*square, np.arange(3.0)):
            assert np.geterr() == before
        with pytest.raises(InputError), engine.session("float64"):
            raise InputError("")
        assert np.geterr() == before


def test_an_overflow_is_still_the_callers_to_hear_of():
    with np.errstate(over="raise"), pytest.raises(FloatingPointError), engine.session("float64"):
        np.exp(np.array(1e4))
