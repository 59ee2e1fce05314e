"""Objectives and optimizers that a Trainer is given: exact gradients, the same bits after a kill."""

import dataclasses
import json

import numpy as np
import pytest

import numgpt
from numgpt import GPT, AdamW, Config, InputError, Layer, Trainer, Training, prepare
from numgpt.layers.edits import Edit
from numgpt.layers.transformer import gpt_backward, gpt_forward, loss
from numgpt.model import differentiable
from numgpt.ops import Op, cross_entropy
from numgpt.training.finite import NotFinite
from numgpt.training.objective import Batch, Pretraining, held_out_loss, step_loss_and_grads

SMALL = {"vocab_size": 7, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}
TRAINING = Training(
    steps=16, batch_size=3, accumulate=2, lr=1e-2, warmup=2, eval_interval=4, save_interval=5, eval_iters=2
)


def last_forward(x):
    """The last position.  x (..., T, C) → (..., C)"""
    return x[..., -1, :], x.shape


def last_backward(dy, shape):
    """Gradient of last_forward: nothing reaches the other positions."""
    dx = np.zeros(shape, dy.dtype)
    dx[..., -1, :] = dy
    return (dx,)


def soft_cross_entropy_forward(logits, probs):
    """The mean over rows of −Σ_v p_v ln softmax(z)_v."""
    shifted = logits - logits.max(-1, keepdims=True)
    exps = np.exp(shifted)
    total = exps.sum(-1, keepdims=True)
    rows = total.size
    loss = (probs * (np.log(total) - shifted)).sum() * (1 / rows)
    return loss, (exps / total, probs, rows)


def soft_cross_entropy_backward(dy, saved):
    """dz = dy (softmax(z) Σ_v p_v − p)/N, because ∂ ln softmax(z)_v/∂z_w = [v = w] − softmax(z)_w."""
    softmax, probs, rows = saved
    return (softmax * probs.sum(-1, keepdims=True) - probs) * (dy * (1 / rows)), None


last = Op("...TC -> ...C", last_forward, last_backward)
soft_cross_entropy = Op("...V, ...V -> ()", soft_cross_entropy_forward, soft_cross_entropy_backward)


def label_forward(r, tokens, labels):
    return r("loss", cross_entropy, r("last", last, gpt_forward(r, tokens)), labels)


def label_backward(r, dloss):
    gpt_backward(r, r.back("last", r.back("loss", dloss)))


def teacher_forward(r, tokens, probs):
    return r("loss", soft_cross_entropy, gpt_forward(r, tokens), probs)


def teacher_backward(r, dloss):
    gpt_backward(r, r.back("loss", dloss))


class Labels:
    """Say at the last position which token came most often; batches are of different sizes."""

    digest = "the commonest of seven"
    layer = Layer(label_forward, label_backward)

    def __init__(self, seed=0):
        self.seed = seed

    def rows(self, *at):
        draw = np.random.default_rng((self.seed, *at))
        tokens = draw.integers(0, 7, (2 + sum(at) % 4, 6))
        tokens[:, ::2] = tokens[:, :1]
        return tokens, np.array([np.bincount(row).argmax() for row in tokens])

    def batch(self, step, n):
        tokens, labels = self.rows(0, step, n)
        return (tokens, labels), self.layer, len(labels)

    def held_out(self):
        return [
            ((tokens, labels), self.layer, len(labels)) for tokens, labels in map(self.rows, (1, 2), (0, 0))
        ]


class Distillation:
    """A fixed table of a teacher's probabilities for the token after each one; nothing is held out."""

    layer = Layer(teacher_forward, teacher_backward)

    def __init__(self):
        table = np.exp(3 * np.random.default_rng(5).standard_normal((7, 7)))
        self.table = table / table.sum(-1, keepdims=True)

    def batch(self, step, n):
        tokens = np.random.default_rng((step, n)).integers(0, 7, (2 + n, 4))
        return Batch((tokens, self.table[tokens]), self.layer, tokens.size)


class Momentum:
    """Gradient descent with momentum that weakens as the steps go on."""

    def __init__(self, model):
        self.params = model.params
        self.velocity = model.params.like()
        self.counted = np.zeros((), np.int64)

    def step(self, grads, lr):
        self.counted += 1
        self.velocity.flat[:] = (0.5 - 0.1 / self.counted) * self.velocity.flat + grads.flat
        self.params.flat[:] -= (10 * lr * self.velocity.flat).astype(self.params.dtype)

    def state(self):
        return {"counted": self.counted, "velocity": self.velocity.flat}

    def load_state(self, arrays, steps):
        assert arrays["counted"] == steps
        self.counted[...] = arrays["counted"]
        self.velocity.flat[:] = arrays["velocity"]


class Descent:
    """Gradient descent, which has nothing to remember."""

    def __init__(self, model):
        self.params = model.params

    def step(self, grads, lr):
        self.params.flat[:] -= np.float32(10 * lr) * grads.flat

    def state(self):
        return {}

    def load_state(self, arrays, steps):
        assert not arrays


def part(model):
    """AdamW of the feed-forward matrices alone."""
    return AdamW(model, names=["h.*.mlp.*.weight"])


OBJECTIVES = [Labels, Distillation]
OPTIMIZERS = [AdamW, part, Momentum, Descent]


def model_of(dtype="float32", **changes):
    return GPT(Config(**SMALL | changes), seed=1, dtype=dtype)


def trainer(objective=None, optimizer=AdamW, out=None, model=None, training=TRAINING):
    model = model or model_of(dropout=0.1)
    return Trainer(model, None, training, out, objective or Labels(), optimizer(model))


def files(run):
    """The bytes of all that a run goes on from."""
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    return {name: (run / "last" / name).read_bytes() for name in names}


def log(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k not in ("time", "tokens_per_s")} for e in entries]


class Killed(BaseException):
    """Nobody catches it, so nothing is saved on its way."""


class KillAt:
    def __init__(self, step):
        self.step = step

    def update(self, trainer, entry):
        if entry["step"] == self.step and "loss" in entry:
            raise Killed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_that_was_killed_and_resumed_ends_with_the_same_bits(objective, optimizer, tmp_path):
    trainer(objective(), optimizer, tmp_path / "through").run()
    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        trainer(objective(), optimizer, killed).run(KillAt(3))
    for kill in (7, 14, None):
        again = trainer(objective(), optimizer, killed, GPT.load(killed / "last"))
        again.resume()
        assert again.updates == {7: 0, 14: 5, None: 10}[kill]
        if kill is None:
            again.run()
            continue
        with pytest.raises(Killed):
            again.run(KillAt(kill))
    assert files(tmp_path / "through") == files(killed)
    assert log(tmp_path / "through") == log(killed)


@pytest.mark.parametrize("optimizer", [AdamW, Momentum, Descent])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_goes_down(objective, optimizer):
    training = dataclasses.replace(TRAINING, steps=60, lr=2e-2)
    run = trainer(objective(), optimizer, model=model_of(), training=training)

    def loss():
        return step_loss_and_grads(run.model, run.objective, 1000, 8, run.model.params.like())[0]

    before = loss()
    for _ in range(60):
        run.step()
    assert loss() < 0.95 * before


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradients_of_a_step_are_those_of_its_mean_loss_by_the_complex_step(objective):
    """The mean is over all that counts in the step, so each batch weighs by its count."""
    objective, model = objective(), model_of("float64")
    batches = [Batch(*b) if isinstance(b, tuple) else b for b in (objective.batch(4, n) for n in range(3))]
    assert len({b.count for b in batches}) > 1
    grads = model.params.like()
    loss, counted = step_loss_and_grads(model, objective, 4, 3, grads)

    moved, h = model.astype("complex128"), 1e-30
    v = np.random.default_rng(2).standard_normal(model.n_params)
    moved.params.flat[:] += 1j * h * v
    losses = [differentiable.loss(moved, b.layer, b.inputs) for b in batches]
    mean = sum(b.count * x for b, x in zip(batches, losses)) / sum(b.count for b in batches)
    assert counted == sum(b.count for b in batches)
    assert loss == pytest.approx(mean.real, rel=1e-13)
    assert grads.flat @ v == pytest.approx(mean.imag / h, rel=1e-11)


def test_a_run_moves_what_its_optimizer_trains_and_nothing_else(tmp_path):
    run = trainer(optimizer=part, out=tmp_path / "run")
    before = run.model.params.astype("float32")
    assert set(run.grads) == set(run.optimizer.m) < set(before)
    run.run()
    moved = {name for name, value in run.model.params.items() if not np.array_equal(value, before[name])}
    assert moved == {f"h.{i}.mlp.{name}.weight" for i in range(2) for name in ("c_fc", "c_proj")}
    stored = (tmp_path / "run" / "last" / "optimizer.safetensors").stat().st_size
    assert stored < 3 * 4 * 2 * sum(run.model.params[name].size for name in moved)
    other = trainer(out=tmp_path / "run", model=GPT.load(tmp_path / "run" / "last"))
    with pytest.raises(
        InputError, match=r"optimizer.safetensors: m\.\S+ is missing, expected the \d+ arrays"
    ):
        other.resume()


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefg" * 200)
    return prepare(tmp_path / "text.txt", split="tail")


def test_a_step_of_pretraining_has_the_bits_of_loss_and_grads(corpus):
    """Every window of a step is divided by what counts in all of them, and nothing is rounded twice."""
    model = model_of(dropout=0.2)
    objective = Pretraining(corpus, dataclasses.replace(TRAINING, accumulate=3), 6)
    grads, expected, total = model.params.like(), model.params.like(), 0.0
    loss, counted = step_loss_and_grads(model, objective, 5, 3, grads)
    for n in range(3):
        (x, y, whole), of = objective.batch(5, n).inputs, objective.batch(5, n).of
        assert whole == of == counted == 3 * 3 * 6
        part, _ = model.loss_and_grads(x, y, step=(5, n), count=54, out=expected, add=n > 0)
        total += float(part)
    assert loss == total and np.array_equal(grads.flat, expected.flat)
    windows = [b.inputs for b in objective.held_out()]
    assert held_out_loss(model, objective) == np.mean([model.loss(*w) for w in windows], dtype=np.float64)


class Packed:
    """Documents of two lengths side by side in each row, each alone."""

    seen = numgpt.Visibility.packed([[3, 5], [6, 2]])

    def batch(self, step, n):
        x, y = np.random.default_rng([step, n]).integers(0, 7, (2, 2, 8))
        return Batch((x, y), loss, y.size, visibility=self.seen)

    def held_out(self):
        return [self.batch(99, 0)]


def test_a_batch_says_what_its_tokens_see():
    model = GPT(Config(vocab_size=7, block_size=8, n_layer=2, n_head=2, n_embd=8), dtype="float64")
    grads, packed = model.params.like(), Packed()
    total, counted = step_loss_and_grads(model, packed, 0, 1, grads)
    x, y = packed.batch(0, 0).inputs
    expected, theirs = model.loss_and_grads(x, y, visibility=packed.seen, step=(0, 0))
    assert total == float(expected) and counted == 16 and grads.flat.tobytes() == theirs.flat.tobytes()
    assert total != float(model.loss(x, y))
    held_out = packed.batch(99, 0).inputs
    assert held_out_loss(model, packed) == float(model.loss(*held_out, visibility=packed.seen))


def test_the_held_out_loss_weighs_its_batches_by_what_counts_in_them():
    objective, model = Labels(), model_of("float64")
    pairs = [(differentiable.loss(model, layer, inputs), n) for inputs, layer, n in objective.held_out()]
    mean = sum(n * loss for loss, n in pairs) / sum(n for _, n in pairs)
    assert len({n for _, n in pairs}) > 1 and held_out_loss(model, objective) == pytest.approx(
        mean, rel=1e-14
    )


def test_a_run_without_a_held_out_loss_is_not_measured_and_keeps_its_last_model(tmp_path):
    run = trainer(Distillation(), out=tmp_path / "run")
    run.run()
    assert run.best is None and not (tmp_path / "run" / "best").exists()
    assert all("held_out_loss" not in entry for entry in log(tmp_path / "run"))
    assert np.array_equal(GPT.load(tmp_path / "run").params.flat, run.model.params.flat)
    with pytest.raises(InputError, match=r"^Trainer: Distillation has no held_out\(\), expected"):
        run.evaluate()


def test_what_a_run_trains_on_is_said_and_told_from_other_data(tmp_path):
    run = trainer(Labels(), out=tmp_path / "run")
    run.run()
    assert " on Labels: step 16 of 16" in repr(run)
    other = Labels()
    other.digest = "others"
    again = trainer(other, out=tmp_path / "run", model=GPT.load(tmp_path / "run" / "last"))
    with pytest.raises(InputError, match="was trained on Labels as it was then, and Labels differs from it"):
        again.resume()


@pytest.mark.parametrize(
    "objective, optimizer, message",
    [
        (Distillation, AdamW, "was trained with the objective Labels, and this Trainer has Distillation"),
        (Labels, Momentum, "was trained with the optimizer AdamW, and this Trainer has Momentum"),
    ],
)
def test_a_run_goes_on_with_its_own_objective_and_optimizer_alone(objective, optimizer, message, tmp_path):
    trainer(out=tmp_path / "run").run()
    again = trainer(objective(), optimizer, tmp_path / "run", GPT.load(tmp_path / "run" / "last"))
    with pytest.raises(InputError, match=message):
        again.resume()
    assert again.updates == 0


def test_a_run_of_another_objective_is_not_resumed_by_the_command(tmp_path, capsys):
    from numgpt.__main__ import main

    trainer(out=tmp_path / "run").run()
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "trains by the objective Labels" in error


# What is refused, in a line that names it.


class Giving:
    """An objective that gives whatever it was made of."""

    def __init__(self, given):
        self.given = given

    def batch(self, step, n):
        return self.given


TOKENS, LABELS = Labels().rows(0)
WHOLE = Layer(
    lambda r, x, y: r("loss", cross_entropy, gpt_forward(r, x), np.zeros_like(x))[None], label_backward
)
WORD = Layer(lambda r, x, y: "loss", label_backward)


@pytest.mark.parametrize(
    "given, message",
    [
        (None, r"^Giving.batch: gave NoneType, expected three things: a tuple of inputs, a layer and how"),
        (((TOKENS, LABELS), Labels.layer), "^Giving.batch: gave 2 things, expected three things"),
        (([TOKENS], Labels.layer, 1), r"the inputs are list, expected a tuple of arrays"),
        ((TOKENS, Labels.layer, 1), r"the inputs are ndarray, expected a tuple of arrays: \(x,\) for one"),
        (((TOKENS, LABELS), label_forward, 1), r"the layer is function, expected a numgpt.Layer\(forward, b"),
        (((TOKENS, LABELS), Labels.layer, 0), "the count is 0, expected a number above 0"),
        (((TOKENS, LABELS), Labels.layer, -3), "the count is -3, expected a number above 0"),
        (((TOKENS, LABELS), Labels.layer, float("nan")), "the count is nan, expected a number above 0"),
        (((TOKENS, LABELS), Labels.layer, None), "the count is None, expected a number above 0"),
        (((TOKENS, LABELS), Labels.layer, True), "the count is True, expected a number above 0"),
        (Batch((TOKENS, LABELS), Labels.layer, 3, of=0), "the of is 0, expected a number above 0"),
        (((TOKENS, LABELS), WHOLE, 1), r"^objective: the layer's loss has shape \(1,\), expected \(\)"),
        (
            ((TOKENS, LABELS), WORD, 1),
            r"^objective: the layer's loss is str, expected an array \(\) of floats",
        ),
        (((TOKENS + 7, LABELS), Labels.layer, 1), r"^embedding: ids has \d+ at \(0, 0\), expected 0 to 6"),
    ],
)
def test_what_is_no_batch_is_one_line_that_names_it(given, message):
    run = trainer(Giving(given))
    before = run.model.params.flat.copy()
    with pytest.raises(InputError, match=message) as refused:
        run.step()
    assert len(str(refused.value).splitlines()) == 1
    assert np.array_equal(run.model.params.flat, before) and run.updates == 0


@pytest.mark.parametrize("held_out", [[], 5, [None]], ids=repr)
def test_held_out_batches_that_are_none_are_refused(held_out):
    objective = Giving(None)
    objective.held_out = lambda: held_out
    with pytest.raises(
        InputError, match=r"^Giving.held_out: (gives no batch|returned int|gave NoneType), exp"
    ):
        trainer(objective).evaluate()


class Unsaved(Descent):
    kept = None

    def state(self):
        return self.kept


@pytest.mark.parametrize(
    "kept, message",
    [
        (None, "^save: the state of Unsaved is NoneType, expected a mapping of names to arrays$"),
        ({"m": np.ones(2, complex)}, "^save: the state of Unsaved has 'm' of complex128, expected strings"),
        ({3: np.ones(2)}, "^save: the state of Unsaved has 3 of float64, expected strings as names"),
        ({"m": np.array([np.nan])}, "^save: m holds NaN or infinity, expected finite numbers: nothing was"),
    ],
)
def test_a_state_that_no_file_holds_is_refused(kept, message, tmp_path):
    run = trainer(optimizer=Unsaved, out=tmp_path / "run")
    run.optimizer.kept = kept
    with pytest.raises(InputError, match=message):
        run.save("last")
    assert not (tmp_path / "run" / "last").exists()


def test_an_optimizer_of_another_model_or_one_that_has_begun_is_refused():
    model = model_of()
    with pytest.raises(InputError, match=r"^Trainer: the optimizer moves the parameters of another model"):
        Trainer(model, None, TRAINING, None, Labels(), AdamW(model_of()))
    optimizer = AdamW(model)
    optimizer.step(model.params.like(), lr=0.1)
    with pytest.raises(InputError, match=r"^Trainer: the optimizer has taken 1 steps, expected one that beg"):
        Trainer(model, None, TRAINING, None, Labels(), optimizer)
    with pytest.raises(
        InputError, match=r"^Trainer: optimizer is .*, expected an Optimizer, which has load_"
    ):
        Trainer(model, None, TRAINING, None, Labels(), object())
    with pytest.raises(
        InputError, match=r"^Trainer: objective is .*, expected an Objective, which has batch"
    ):
        Trainer(model, None, TRAINING, None, object())
    with pytest.raises(
        InputError, match=r"^Trainer: there is neither a corpus nor an objective, expected on"
    ):
        Trainer(model, None, TRAINING)


def test_an_optimizer_that_refuses_a_step_leaves_the_run_whole():
    class Refusing(Descent):
        def step(self, grads, lr):
            raise InputError("Refusing: no")

    run = trainer(optimizer=Refusing)
    for _ in range(2):
        with pytest.raises(InputError, match="^Refusing: no$"):
            run.step()
    assert run.updates == 0 and not run.torn


def test_a_loss_that_is_not_finite_names_the_value_of_ones_own_layer():
    class Endless(Labels):
        def batch(self, step, n):
            inputs, _, count = super().batch(step, n)
            return inputs, Layer(self.forward, label_backward), count

        @staticmethod
        def forward(r, tokens, labels):
            r.edit["last"] = Edit.of("last", (lambda x: x * np.inf, lambda dy: dy))
            return label_forward(r, tokens, labels)

    with np.errstate(invalid="ignore"), pytest.raises(NotFinite, match="the value last is the first that is"):
        trainer(Endless()).step()
