"""The cupy engine on a real GPU: the laws, the twins against wider precision, the CPU's training curve, the
same bits twice.
"""

import dataclasses
import re
from string import ascii_uppercase

import numpy as np
import pytest
from op_sizes import SIZES
from test_mixed_precision import (
    FRACTION,
    MULTIPLIES,
    both_ways,
    expect_float32_sums,
    first_subject,
    within,
)

import numgpt
from numgpt import GPT, AdamW, Config, Visibility, engine, gradcheck, ops
from numgpt.__main__ import MIXED, main
from numgpt.engine.precision import of_products
from numgpt.model.generate import logits_stream
from numgpt.proofs.subjects import (
    SMALL,
    VARIANTS,
    block_layers,
    composed_subjects,
    layer_subject,
    model_subject,
    op_subjects,
)

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
if not cupy.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

every_op = pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
both = pytest.mark.parametrize("dtype, wider", [("float32", "float64"), ("float64", "longdouble")])
# More than the variants of the laws: windows, in all layers and in every other.
MODELS = VARIANTS | {
    "windows": VARIANTS["LLaMA"] | {"window": 3},
    "every other a window": VARIANTS["LLaMA"] | {"layers": [{"window": 3}, {}]},
}
every_variant = pytest.mark.parametrize("changes", MODELS.values(), ids=list(MODELS))


@pytest.fixture(autouse=True)
def on_the_gpu():
    before = engine.current()
    numgpt.use("cupy")
    yield
    numgpt.use(before)


@every_op
def test_every_op_keeps_the_laws_on_the_gpu(op):
    """In float64 by its twin, and in complex128, which the laws' complex step runs through, by the
    specification.
    """
    for seed in range(5):
        for subject in op_subjects(op, seed):
            gradcheck.check(subject.forward, subject.backward, *subject.arrays, **subject.options)


@every_op
def test_the_laws_are_asked_on_the_gpu_in_float64_and_complex128(op, monkeypatch):
    """Long double, the second witness, has no place there."""
    seen, chosen = set(), engine.forward

    def watched(op, arrays):
        seen.update(
            (a.dtype.name, engine.on_gpu(a)) for a in arrays if a is not None and a.dtype.kind in "fc"
        )
        return chosen(op, arrays)

    monkeypatch.setattr(engine, "forward", watched)
    subject = next(iter(op_subjects(op, 0)))
    gradcheck.check(subject.forward, subject.backward, *subject.arrays, **subject.options)
    assert {("float64", True), ("complex128", True)} <= seen and not seen & {
        ("float64", False),
        ("complex128", False),
    }


@every_op
def test_a_gradient_wrong_by_one_part_in_1e9_is_rejected_on_the_gpu(op):
    subject = next(iter(op_subjects(op, 0)))

    def planted(dy, saved):
        return tuple(None if g is None else g * (1 + 1e-9) for g in subject.backward(dy, saved))

    with pytest.raises(gradcheck.GradientError, match="transpose"):
        gradcheck.check(subject.forward, planted, *subject.arrays, **subject.options)


@every_variant
def test_layers_and_models_keep_the_laws_on_the_gpu(changes):
    config = Config(**SMALL | changes)
    for layer in block_layers(config):
        subject = layer_subject("layer", layer, config, 0)
        gradcheck.check(subject.forward, subject.backward, *subject.arrays)
    for keep in (True, False):  # kept, every op runs; as trained, the feed-forward runs as one piece
        subject = model_subject("model", config, 0, keep=keep)
        gradcheck.check(subject.forward, subject.backward, *subject.arrays)


def test_what_is_composed_otherwise_keeps_the_laws_on_the_gpu():
    """Several inputs, values put in place and edited, two passes added up, and the step as training runs it,
    which lets memory go.
    """
    others = [
        s
        for s in composed_subjects()
        if " of " not in s.name and s.name.removeprefix("model ") not in VARIANTS
    ]
    assert len(others) == 5
    for subject in others:
        for finding in subject.findings():
            assert finding.holds, (subject.name, finding)


def results(forward, backward, arrays, dy, options):
    moved = engine.here(*arrays, *options.values())
    y, saved = forward(*moved[: len(arrays)], **dict(zip(options, moved[len(arrays) :])))
    grads = backward(*engine.here(dy), saved)
    return [np.asarray(engine.home(a)) for a in (y, *(g for g in grads if g is not None))]


def cast(arrays, dtype):
    return [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays]


def assert_errs_no_more(op, subject, dtype, wider, seed=1):
    """What the engine gives on the GPU, against wider precision on the host: at most 4 times the host's
    error, and 16 roundings.

    The rule that the Numba twins are held to in test_engine.py.
    """
    arrays = cast(subject.arrays, dtype)
    y, _ = op.forward(*arrays, **subject.options)
    dy = np.asarray(np.random.default_rng(seed).standard_normal(np.shape(y)), dtype)
    wide = cast(arrays, wider)
    exact = results(op.forward, op.backward, wide, np.asarray(dy, wider), subject.options)
    y, saved = op.forward(*arrays, **subject.options)
    specified = [np.asarray(a) for a in (y, *op.backward(dy[()], saved)) if a is not None]
    found = results(
        lambda *a, **o: engine.forward(op, a)(*a, **o),
        lambda d, s: engine.backward(op, d)(d, s),
        arrays,
        dy,
        subject.options,
    )
    for e, s, f in zip(exact, specified, found, strict=True):
        assert f.dtype == dtype and f.shape == s.shape
        largest = abs(e).max(initial=0.0)
        ours, theirs = (abs(a - e).max(initial=0.0) for a in (f, s))
        lost = np.finfo(dtype).tiny / np.finfo(dtype).eps  # what a value is made of may underflow earlier
        assert ours <= 4 * theirs + 16 * np.finfo(dtype).eps * largest + lost, (
            subject.name,
            ours / (largest or 1),
            theirs / (largest or 1),
        )


@both
@pytest.mark.parametrize("size", SIZES)
@every_op
def test_the_gpu_errs_no_more_than_the_host(op, size, dtype, wider):
    for subject in op_subjects(op, 0, dict(SIZES[size]), (2,)):
        assert_errs_no_more(op, subject, dtype, wider)


@every_op
def test_a_hundred_random_shapes_err_no_more_than_on_the_host(op):
    """Sizes of 1, odd ones, and those about a warp and a block of threads among them."""
    rng = np.random.default_rng(0)
    for seed in range(100):
        sizes = {
            c: int(rng.choice([1, 2, 3, 5, 7, 31, 32, 33, 63, 65, 100, 127, 129])) for c in ascii_uppercase
        }
        sizes |= {c: min(sizes[c], 33) for c in "HTS"} | {c: min(sizes[c], 5) for c in "GK"}
        lead = [(), (1,), (3,), (2, 3)][rng.integers(4)]
        assert_errs_no_more(op, next(iter(op_subjects(op, seed, sizes, lead))), "float32", "float64", seed)


@both
@every_variant
def test_a_model_errs_no_more_on_the_gpu_than_on_the_host(changes, dtype, wider):
    """Loss and gradients of a step with dropout, by the same rule, at more positions than a block of queries
    has.
    """
    T = 140
    assert_a_model_errs_no_more(Config(**SMALL | {"block_size": T} | changes), dtype, wider, T)


@pytest.mark.parametrize("seen", [None, Visibility.packed([[170, 130], [40, 260]])], ids=["causal", "packed"])
def test_windows_and_documents_err_no_more_over_several_blocks_of_queries(seen):
    """Where blocks are computed with few of the keys."""
    T, shape = 300, SMALL | {"block_size": 300} | VARIANTS["LLaMA"]
    for changes in ({"window": 20}, {"layers": [{"window": 150}, {}]}):
        assert_a_model_errs_no_more(Config(**shape | changes), "float32", "float64", T, seen)


def assert_a_model_errs_no_more(config, dtype, wider, T, visibility=None):
    tokens, targets = np.random.default_rng(0).integers(0, 7, (2, 2, T))
    found, model = {}, GPT(config, 0, dtype).to("reference")
    for name, m in (("gpu", model.to("cupy")), ("host", model), ("exact", model.astype(wider))):
        numgpt.use("cupy" if name == "gpu" else "reference")
        loss, grads = m.loss_and_grads(tokens, targets, step=0, visibility=visibility)
        assert engine.on_gpu(grads.flat) == (name == "gpu")
        found[name] = engine.home(loss), engine.home(grads.flat)
    numgpt.use("cupy")
    for ours, theirs, exact in zip(*(found[name] for name in ("gpu", "host", "exact")), strict=True):
        assert ours.dtype == dtype and np.isfinite(ours).all()
        assert (
            abs(ours - exact).max()
            <= 4 * abs(theirs - exact).max() + 16 * np.finfo(dtype).eps * abs(exact).max()
        )


CONFIG = {"vocab_size": 61, "block_size": 33, "n_layer": 3, "n_head": 3, "n_embd": 48}


def curve(place, dtype, steps, dropout=0.1, perturbed=0.0):
    """The losses of a training run and its last parameters; perturbed: the first parameters are moved by so
    much, relatively.
    """
    numgpt.use("reference" if place == "reference" else "cupy")
    model = GPT(Config(**CONFIG, dropout=dropout), 1, dtype).to(place)
    if perturbed:
        model.params.flat *= engine.beside(
            (1 + perturbed * np.random.default_rng(2).standard_normal(model.n_params)).astype(dtype),
            model.params.flat,
        )
    optimizer, losses, rng = AdamW(model), [], np.random.default_rng(0)
    text = (np.cumsum(rng.integers(1, 4, 5000)) % CONFIG["vocab_size"]).astype(
        int
    )  # each token is one of three that may follow
    for step in range(steps):
        rows = np.stack([text[s : s + 34] for s in rng.integers(0, len(text) - 34, 4)])
        loss, grads = model.loss_and_grads(rows[:, :-1], rows[:, 1:], step=step)
        optimizer.step(grads, lr=3e-3)
        losses.append(loss)
    numgpt.use("cupy")
    return np.array([float(loss) for loss in losses]), engine.home(model.params.flat)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_curve_of_200_steps_is_the_hosts_within_what_rounding_makes_of_it(dtype):
    """The band is measured: how far the host's own curve moves when its first parameters are moved by a
    rounding of each.
    """
    eps = float(np.finfo(dtype).eps)
    host, gpu = (curve(place, dtype, 200)[0] for place in ("reference", "cupy"))
    band = max(abs(curve("reference", dtype, 200, perturbed=eps)[0] - host).max(), eps * host[0])
    assert host[-1] < 0.6 * host[0]
    assert abs(gpu - host).max() <= 10 * band, (abs(gpu - host).max(), band)


def test_two_runs_give_the_same_bits():
    first, second = (curve("cupy", "float32", 50) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes() and first[1].tobytes() == second[1].tobytes()


@every_variant
def test_cached_logits_are_those_of_the_full_forward_on_the_gpu(changes):
    model = GPT(Config(**SMALL | changes), 1, "float64")
    prompt = np.random.default_rng(0).integers(0, 7, (3, 2))
    steps = logits_stream(model, prompt)
    logits, ids = next(steps), prompt
    for _ in range(8):
        assert np.allclose(engine.home(logits), engine.home(model(ids[:, -5:]))[:, -1], rtol=0, atol=1e-12)
        new = engine.home(logits).argmax(-1)
        ids = np.concatenate([ids, new[:, None]], axis=1)
        logits = steps.send(new)


def test_a_step_gives_its_memory_back_to_the_pool():
    """After a step nothing but parameters, gradients and moments is held; a second step asks the device for
    no more.
    """
    model = GPT(Config(**CONFIG))
    optimizer, grads, pool = AdamW(model), model.params.like(), cupy.get_default_memory_pool()
    tokens = np.random.default_rng(0).integers(0, 61, (4, 33))

    def step():
        optimizer.step(model.loss_and_grads(tokens, tokens, step=0, out=grads)[1], 1e-3)
        return pool.used_bytes(), pool.total_bytes()

    step()
    first, second = step(), step()
    assert first == second


def test_the_commands_run_on_the_gpu_and_either_engine_reads_what_the_other_wrote(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    shape = [
        "--n-layer=1",
        "--n-head=2",
        "--n-embd=8",
        "--block-size=8",
        "--batch-size=2",
        "--eval-iters=1",
        "--sample-tokens=5",
    ]
    train, out = (
        ["train", "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run")],
        str(tmp_path / "run"),
    )
    assert main([*train, *shape, "--steps=4", "--engine=cupy"]) == 0
    assert main([*train, "--steps=8", "--resume", "--engine=reference"]) == 0
    assert main([*train, "--steps=12", "--resume", "--engine=cupy"]) == 0
    losses = []
    for name in ("cupy", "reference"):
        assert main(["sample", out, "--max-new-tokens=5", "--engine", name]) == 0
        capsys.readouterr()
        assert main(["eval", out, "--engine", name]) == 0
        losses.append(float(re.search(r"loss +([\d.]+) nats", capsys.readouterr().out)[1]))
    assert (
        abs(losses[0] - losses[1]) <= 1.1e-4
    )  # four digits are printed, of which rounding may turn the last
    assert main(["check", "layernorm", "--engine=cupy"]) == 0


def test_what_the_gpu_has_no_room_for_says_what_was_asked_for_and_what_is_free():
    free, total = cupy.cuda.runtime.memGetInfo()
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError) as full:
        cupy.empty(2 * total, "int8")
    said = engine.out_of_memory(full.value)
    assert re.fullmatch(
        r"on the GPU: Out of memory allocating [\d,]+ bytes .*; [\d,]+ of [\d,]+ bytes are free", said
    )
    assert (
        2 * total <= int(said.split("allocating ")[1].split()[0].replace(",", ""))
        and f" of {total:,} bytes" in said
    )


FAULTS = {
    "made an array of the host": lambda a: np.asarray(a),
    "mixed with one": lambda a: a + np.ones(a.shape),
    "given to a function that CuPy lacks": lambda a: np.block([a]),
    "given to a ufunc that CuPy lacks": lambda a: np.spacing(a),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_an_array_of_the_gpu_given_to_what_takes_the_hosts_is_known_by_its_error(fault):
    with pytest.raises(TypeError) as refused:
        fault(cupy.asarray(np.ones((2, 3))))
    assert any(part in str(refused.value) for part in MIXED), refused.value


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_products_of_rounded_operands_err_no_more_than_float32_sums(name):
    multiply = within(name)
    expect_float32_sums(lambda a, b: engine.home(multiply(cupy.asarray(a), cupy.asarray(b))), name)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("op", MULTIPLIES)
def test_ops_in_a_format_give_what_the_specification_gives(op, name):
    subject = first_subject(ops.ALL[op])
    moved = [a if a is None or a.dtype.kind != "f" else cupy.asarray(a, "float32") for a in subject.arrays]
    moved = [a if a is None else cupy.asarray(a) for a in moved]
    with of_products(name):
        found = both_ways(dataclasses.replace(subject, arrays=moved))
        numgpt.use("reference")
        expected = both_ways(subject)
    for a, b in zip(found, expected, strict=True):
        assert np.linalg.norm(a - b) <= 0.2 * 2.0 ** -(FRACTION[name] + 1) * np.linalg.norm(b)


def test_products_of_tf32_lose_the_digits_that_it_drops():
    """How a GPU rounds to it, or cuts off, is its own."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 512), (512, 48)))
    exact = a.astype(np.float64) @ b
    found = engine.home(within("tf32")(cupy.asarray(a), cupy.asarray(b)))
    assert 1e-5 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 2.0**-9
