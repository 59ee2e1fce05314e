"""What a user holds survives copy, deepcopy, pickle and the way to another process, whole and to the bit.

Whatever a way does to one thing it does to several that belong together: views stay views of their buffer, an
optimizer goes on with the model that was copied with it, and an op is the op of its table.
"""

import copy
import functools
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil

import numpy as np
import pytest
from tokenizer_samples import scored

import numgpt
from numgpt import (
    GPT,
    AdamW,
    Config,
    InputError,
    Trainer,
    Training,
    calculus,
    evaluation,
    gradcheck,
    ops,
    parity,
    tokenizers,
)
from numgpt.architecture.parameters import Flat
from numgpt.data import corpus as data
from numgpt.errors import TextError
from numgpt.evaluation.score import score
from numgpt.interchange import torch_random
from numgpt.layers import transformer
from numgpt.layers.layer import Layer
from numgpt.ops.op import Op
from numgpt.tokenizers.kinds import KINDS

TINY = Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=8)
X, Y = [[0, 1, 2, 3]], [[1, 2, 3, 4]]
TEXT = "she sells sea shells by the sea shore. " * 40


def pickled(protocol, thing):
    return pickle.loads(pickle.dumps(thing, protocol))


def with_buffers_beside(thing):
    """By protocol 5, whose large arrays travel beside the pickle, not in it."""
    buffers = []
    data = pickle.dumps(thing, 5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytearray(buffer) for buffer in buffers])


DEEP = {"deepcopy": copy.deepcopy, "buffers beside": with_buffers_beside} | {
    f"pickle {protocol}": functools.partial(pickled, protocol) for protocol in range(2, 6)
}
WAYS = {"copy": copy.copy} | DEEP


def trained(model, optimizer, steps=3):
    """The bits of a model and its moments after some steps."""
    for _ in range(steps):
        _, grads = model.loss_and_grads(X, Y)
        optimizer.step(grads, lr=0.05)
    return model.params.flat.tobytes(), optimizer.m.flat.tobytes(), optimizer.v.flat.tobytes()


def model_and_optimizer():
    model = GPT(TINY, seed=0)
    optimizer = AdamW(model)
    trained(model, optimizer)
    return model, optimizer


def a_corpus(folder, tokens=None):
    (folder / "text.txt").write_text(TEXT)
    return data.prepare(folder / "text.txt", split="tail", folder=tokens)


def a_mapped_corpus(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "LARGE", 10)
        return a_corpus(folder, folder / "tokens")


def a_trainer(folder):
    text = a_corpus(folder)
    config = Config(vocab_size=text.tokenizer.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=8)
    trainer = Trainer(
        GPT(config, tokenizer=text.tokenizer), text, Training(steps=4, eval_iters=1, batch_size=2)
    )
    trainer.step()
    return trainer


def a_unigram():
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    return tokenizers.build("unigram:270", TEXT)


def a_pipeline():
    """Read from a file: a space begins a word, and bytes stand for what has no token."""
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    metaspace = {"type": "Metaspace", "replacement": "▁"}
    vocab = {text: i for i, text in enumerate([*names, "▁", "a", "▁a"])}
    model = {"type": "BPE", "vocab": vocab, "merges": [["▁", "a"]], "byte_fallback": True}
    return tokenizers.Pipeline({"pre_tokenizer": metaspace, "model": model, "decoder": metaspace})


def a_finding():
    """Of a law that is broken, whose message is made when it is asked for."""
    cube = gradcheck.Pair(lambda x: (x**3, x), lambda dy, x: (2 * x * dy,))
    x = np.arange(1.0, 3.0)
    with pytest.raises(gradcheck.GradientError):
        gradcheck.check(*cube, x)
    return gradcheck.Finding("pure", 1.0, 0.0, lambda: "said late")


def a_result():
    """What a model scored on questions with choices."""
    model = GPT(TINY, dtype="float64", tokenizer=tokenizers.Characters("\nabcd"))
    return evaluation.evaluate(
        model, evaluation.Suite("s", [evaluation.Question("a", ("b", "c"))], delimiter="")
    )


@functools.cache
def seen_inside():
    """What every experiment of numgpt.interpretability gives, of one small model."""
    inside, model = numgpt.interpretability, GPT(TINY, seed=0, dtype="float64")
    pair, metric = ([0, 1, 2], [0, 3, 2]), inside.logit_difference(model, 1, 2)
    hooks = inside.hook_names(TINY)
    return [
        metric,
        inside.surprise(model, [1, 2, 3]),
        inside.activation_patching(model, *pair, metric),
        inside.path_patching(model, *pair, metric),
        inside.causal_tracing(model, pair[0], (0, 1), draws=2),
        inside.ablation(model, pair[0], metric),
        inside.attention_maps(model, pair[0]),
        inside.head_scores(model),
        inside.qk_circuit(model, 0, 1),
        inside.logit_lens(model, pair[0]),
        inside.direct_logit_attribution(model, pair[0], 1, 2),
        inside.integrated_gradients(model, pair[0], metric, steps=4),
        inside.strongest_activations(model, pair[0], 0),
        inside.ridge_probe(model, [[0, 1], [2, 3], [1, 4]], [0, 1, 1], "wte")["wte"],
        inside.steering_vector(model, pair[0], pair[1], 0),
        hooks,
        hooks.hooks[0],
    ]


# Name → a function of a folder that makes the thing.
THINGS = {
    "config": lambda folder: TINY,
    "training": lambda folder: Training(lr=1e-2),
    "parameters": lambda folder: GPT(TINY).params,
    "gradients": lambda folder: GPT(TINY).loss_and_grads(X, Y)[1],
    "model": lambda folder: GPT(TINY, seed=3, dtype="float64", tokenizer=tokenizers.Characters("abcde")),
    "adapted model": lambda folder: GPT(TINY, seed=3).extended(
        numgpt.LoRA(rank=2), numgpt.Head(task="reward")
    ),
    "quantized model": lambda folder: GPT(TINY, seed=3, dtype="float64").quantize(),
    "pruned model": lambda folder: GPT(TINY, seed=3, dtype="float64").pruned(0.5),
    "optimizer": lambda folder: model_and_optimizer()[1],
    "model and optimizer": lambda folder: model_and_optimizer(),
    "optimizer and model": lambda folder: dict(zip("ab", model_and_optimizer()[::-1])),
    "muon": lambda folder: numgpt.Muon(GPT(TINY, seed=3)),
    "trainer": a_trainer,
    "corpus": a_corpus,
    "mapped corpus": a_mapped_corpus,
    "characters": lambda folder: tokenizers.Characters("abc"),
    "bytes": lambda folder: tokenizers.Bytes(),
    "byte pairs": lambda folder: tokenizers.build("bpe:270:cl100k", TEXT),
    "unigram": lambda folder: a_unigram(),
    "pipeline": lambda folder: a_pipeline(),
    "scored": lambda folder: scored(TEXT),
    "score": lambda folder: score(GPT(TINY), np.arange(20) % 5),
    "question": lambda folder: evaluation.Question("1+1=", ("2", "3")),
    "suite": lambda folder: evaluation.suite("copy", 5),
    "result": lambda folder: a_result(),
    "likelihood": lambda folder: evaluation.Likelihood(-1.5, True, 2),
    "lambada": lambda folder: evaluation.Lambada(*[evaluation.estimate([0, 1, 1])] * 3, 3),
    "wikitext": lambda folder: evaluation.WikiText(score(GPT(TINY), np.arange(20) % 5), a_result()),
    "estimate": lambda folder: evaluation.estimate([0, 1, 1]),
    "positions": lambda folder: evaluation.loss_by_position(GPT(TINY), np.arange(20) % 5),
    "verdict": lambda folder: gradcheck.verdict(ops.gelu.forward, ops.relu.backward, np.arange(3.0)),
    "sameness": lambda folder: gradcheck.same(ops.gelu, ops.gelu, np.arange(3.0)),
    "findings": lambda folder: gradcheck.check(ops.gelu.forward, ops.gelu.backward, np.arange(3.0)),
    "a broken law": lambda folder: a_finding(),
    "pair": lambda folder: gradcheck.Pair(ops.gelu.forward, ops.gelu.backward),
    "op": lambda folder: ops.layernorm,
    "ops": lambda folder: ops.ALL,
    "activations": lambda folder: ops.ACTIVATIONS,
    "layer": lambda folder: Layer(transformer.ffn_forward, transformer.ffn_backward),
    "values": lambda folder: GPT(TINY).record(X, Y).value,
    "trace": lambda folder: GPT(TINY).record(X, Y).trace(differences=1),
    "rollout": lambda folder: numgpt.tuning.Rollout(*map(np.array, (X, [1], [3], [True], [0.5]))),
    **{f"looking inside: {n}": lambda folder, n=n: seen_inside()[n] for n in range(17)},
    "visibility": lambda folder: numgpt.Visibility.packed([[3, 2]]),
    "noise scale": lambda folder: calculus.NoiseScale(*range(len(calculus.NoiseScale._fields))),
    "divergence": lambda folder: parity.first_divergence(GPT(TINY), GPT(TINY, seed=1), X, Y),
    "generator": lambda folder: torch_random.Generator(0),
    "error": lambda folder: InputError("x" * 5000 + "\n"),
    "error with a place": lambda folder: TextError("text: a", 3, " is not there").moved(2),
}


@pytest.fixture(params=THINGS)
def thing(request, tmp_path):
    return THINGS[request.param](tmp_path)


def content(thing):
    """What a thing holds, to be compared by ==: down to the bits, and ops and functions by identity."""
    if isinstance(thing, Flat):
        return [Flat, *thing.shapes.items(), content(thing.flat)]
    if isinstance(thing, np.ndarray):
        return [thing.dtype, thing.shape, thing.tobytes()]
    if isinstance(thing, tokenizers.Tokenizer):
        return [type(thing), thing.state(), content(thing.encode("aa"))]
    if isinstance(thing, dict):
        return [type(thing), *((name, content(value)) for name, value in thing.items())]
    if isinstance(thing, list | tuple):
        return [type(thing), *map(content, thing)]
    if isinstance(thing, np.random.RandomState):
        return content(thing.get_state())
    if isinstance(thing, BaseException):
        return [type(thing), str(thing), content(vars(thing))]
    if isinstance(thing, gradcheck.Finding):
        return [str(thing), thing.detail]
    if isinstance(thing, Op | type) or inspect.isfunction(thing):
        return thing
    return [type(thing), content(vars(thing))] if hasattr(thing, "__dict__") else repr(thing)


def inside(thing):
    """A thing, and all things in it."""
    yield thing
    if isinstance(thing, dict):
        parts = thing.values()
    elif isinstance(thing, list | tuple):
        parts = thing
    else:
        parts = (
            vars(thing).values() if hasattr(thing, "__dict__") and not isinstance(thing, Op | type) else ()
        )
    for part in parts:
        yield from inside(part)


def expect_whole(thing):
    """AssertionError unless floats are views of their buffer, and an optimizer has its model's parameters."""
    parts = list(inside(thing))
    for flat in (part for part in parts if isinstance(part, Flat)):
        for view in (*(flat[name] for name in flat.shapes), flat.decayed):
            assert np.shares_memory(view, flat.flat) or view.size == 0
    models = {id(part.params) for part in parts if isinstance(part, GPT)}
    for optimizer in (part for part in parts if isinstance(part, AdamW)):
        assert not models or id(optimizer.params) in models


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_whole_and_the_same_to_the_bit(way, thing):
    other = WAYS[way](thing)
    assert content(other) == content(thing)
    expect_whole(other)


def test_nothing_that_is_done_to_a_deep_copy_reaches_the_original(thing):
    other = copy.deepcopy(thing)
    arrays, others = ([part for part in inside(t) if isinstance(part, np.ndarray)] for t in (thing, other))
    assert len(arrays) == len(others)
    for array, other in zip(arrays, others):
        assert not other.flags.writeable or not np.shares_memory(array, other)


def test_tokens_in_a_file_are_not_read_into_memory_by_a_deep_copy(tmp_path):
    text = a_mapped_corpus(tmp_path)
    assert isinstance(text.train, np.memmap)
    assert copy.deepcopy([text])[0].train is text.train


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_model_learns_and_is_saved_as_it_learned(way, tmp_path):
    model = WAYS[way](GPT(TINY, seed=0))
    before = float(model.loss(X, Y))
    trained(model, AdamW(model), 20)
    after = float(model.loss(X, Y))
    assert after < 0.9 * before
    assert float(model.astype("float64").loss(X, Y)) == pytest.approx(after, abs=1e-5)
    model.save(tmp_path / "model")
    assert GPT.load(tmp_path / "model").params.flat.tobytes() == model.params.flat.tobytes()


@pytest.mark.parametrize("way", DEEP)
def test_a_copied_optimizer_goes_on_with_its_own_model(way):
    pair = model_and_optimizer()
    before = content(pair)
    other = DEEP[way](pair)
    bits = trained(*other)
    assert content(pair) == before
    assert trained(*pair) == bits


@pytest.mark.parametrize("way", DEEP)
def test_a_copied_trainer_ends_with_the_bits_of_the_original(way, tmp_path):
    trainer = a_trainer(tmp_path)
    other = DEEP[way](trainer)
    for run in (trainer, other):
        run.run()
    assert trainer.model.params.flat.tobytes() == other.model.params.flat.tobytes()
    assert (trainer.best, trainer.updates) == (other.best, other.updates)


@pytest.mark.parametrize("way", WAYS)
def test_a_record_refuses_copies_by_its_name(way):
    record = GPT(TINY).record(X, Y)
    with pytest.raises(
        InputError, match=r"Record: cannot be copied or pickled, expected .*dict\(record.value\)"
    ):
        WAYS[way](record)


def echo(things):
    """In another process: check what arrived, and send it back."""
    numgpt.use("reference")
    for thing in things:
        expect_whole(thing)
    return things


def fail(error):
    raise error


@pytest.mark.filterwarnings(
    "ignore:os.fork.. was called:RuntimeWarning"
)  # by JAX, where a test used it before
@pytest.mark.parametrize("how", multiprocessing.get_all_start_methods())
def test_everything_goes_to_another_process_and_back_and_so_do_errors(how, tmp_path):
    things = []
    for name, make in THINGS.items():
        (tmp_path / name).mkdir()
        try:
            things.append(make(tmp_path / name))
        except pytest.skip.Exception:
            continue
    pair = model_and_optimizer()
    with multiprocessing.get_context(how).Pool(1) as pool:
        assert content(pool.apply(echo, [things])) == content(things)
        assert pool.apply(trained, copy.deepcopy(pair)) == trained(*pair)
        for error in errors():
            with pytest.raises(type(error)) as caught:
                pool.apply_async(fail, [error]).get(60)  # what cannot be read would be waited for for ever
            assert str(caught.value) == str(error)


def errors():
    """An error of every kind that numgpt raises."""
    for module in pkgutil.walk_packages(numgpt.__path__, "numgpt."):
        if not module.name.endswith(("__main__", "_cupy")):
            importlib.import_module(module.name)
    kinds, new = set(), {Exception}
    while new:
        kinds |= new
        new = {sub for kind in new for sub in kind.__subclasses__()} - kinds
    for kind in kinds:
        if kind.__module__.startswith("numgpt."):
            yield TextError("text", 1, "") if kind is TextError else kind("what is wrong")


def test_every_class_of_the_public_face_is_held_to_these_laws(tmp_path):
    """What is added to the face is added here; a Record is refused by a law of its own."""
    faces = [numgpt, tokenizers, gradcheck, parity, calculus, ops, numgpt.interpretability, evaluation]
    public = [getattr(face, name) for face in faces for name in face.__all__ if name != "Record"]
    public = {cls for cls in public if inspect.isclass(cls) and not getattr(cls, "_is_protocol", False)}
    public |= {row.tokenizer for row in KINDS.values()}
    kinds = {type(error) for error in errors()}
    for name, make in THINGS.items():
        (tmp_path / name).mkdir()
        try:
            kinds |= {type(part) for part in inside(make(tmp_path / name))}
        except pytest.skip.Exception:  # a tokenizer whose package is not here
            public -= {row.tokenizer for kind, row in KINDS.items() if kind == name}
    known = {base for kind in kinds for base in kind.__mro__}
    assert public - known == set()
