"""Whatever is given to the public face: an InputError in our words, or what the docstring says."""

import collections.abc
import dataclasses
import importlib.util
import inspect
import itertools
import os
import re
import string
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
from tokenizer_samples import scored

import numgpt
from numgpt import GPT, AdamW, Config, InputError
from numgpt.argument_kinds import WRONG as WRONG_VALUE
from numgpt.argument_kinds import kind_of
from numgpt.arguments import Count, DType, Size, checked
from numgpt.ops.activations import ACTIVATIONS
from numgpt.ops.op import OPTIONS, Op

SMALL = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 2, "n_embd": 4}
CALLED_BY_LAYERS = {
    "Record",
    "Op",
    "Layer",
}  # whose methods run thousands of times a step, on checked arguments
# Likewise, of a text; and with the shapes that an addition itself gives.
INNER = {"tokenizers.BPE.encode_pretoken", "LoRA.first_value", "Head.first_value"}
RESULTS = {"gradcheck.Finding"}  # classes with a constructor whose instances only functions return
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


# What is public.


def inside(module):
    """Name → what a module of the face offers."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return {name: getattr(module, name) for name in names}


def is_made_by_callers(cls):
    """Whether callers make instances, whose class then checks: not what functions return."""
    return ("__init__" in vars(cls) and not dataclasses.is_dataclass(cls)) or hasattr(cls, "__post_init__")


def of_class(name, cls, face):
    """Name → (class or None, what is called) of a class's constructor and methods.

    Methods of a base that is not of the face itself, such as a chapter of the class, are the class's own.
    """
    if is_made_by_callers(cls) and name not in RESULTS and not issubclass(cls, Exception | Op):
        yield name, (None, cls)
    if cls.__name__ in CALLED_BY_LAYERS or issubclass(cls, Exception | tuple):
        return
    chapters = [c for c in cls.__mro__ if c is cls or (_is_ours(c) and c not in face)]
    for method in dict.fromkeys(method for c in chapters for method in vars(c)):
        is_public = method == "__call__" or not method.startswith("_")
        full = f"{name}.{method}"
        if is_public and callable(getattr(cls, method)) and full not in INNER:
            yield full, (cls, method)


def public():
    """Name → (class of the instance it is called on or None, what is called) of everything in the face."""
    face = {name: getattr(numgpt, name) for name in numgpt.__all__}
    for name, value in list(face.items()):
        if isinstance(value, types.ModuleType):
            face |= {f"{name}.{inner}": thing for inner, thing in inside(value).items()}
    for name, value in face.items():
        if getattr(value, "_is_protocol", False):
            continue
        if inspect.isclass(value):
            yield from of_class(name, value, [thing for thing in face.values() if inspect.isclass(thing)])
        elif isinstance(value, Op) or inspect.isfunction(value):
            yield name, (None, value)


def _is_ours(cls):
    return cls.__module__.startswith("numgpt.")


def parameters(name):
    """Those parameters of something public that take one value each."""
    cls, called = PUBLIC[name]
    signature = inspect.signature(called if cls is None else getattr(cls, called))
    return {
        p.name: p
        for p in signature.parameters.values()
        if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


PUBLIC = dict(sorted(public()))
CALLS = [name for name in PUBLIC if parameters(name)]
if not importlib.util.find_spec("sentencepiece"):
    CALLS = [name for name in CALLS if not name.startswith("tokenizers.Unigram")]
if not importlib.util.find_spec("matplotlib"):
    CALLS = [name for name in CALLS if not name.startswith("plots.")]
if not importlib.util.find_spec("jinja2"):
    CALLS = [name for name in CALLS if "Jinja" not in name and name != "data.from_tokenizer_config"]


# What is right.


def square_forward(x):
    return x * x, x


def square_backward(dy, x):
    return (2 * x * dy,)


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """A function that gives an argument which is right, by the name of its parameter."""
    folder = tmp_path_factory.mktemp("right")
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 20)
    corpus = numgpt.prepare(folder / "text.txt", split="tail", tokenizer="bytes")
    config = numgpt.Config(**SMALL)
    model = numgpt.GPT(config, dtype="float64")
    of_bytes = numgpt.GPT(numgpt.Config(**SMALL | {"vocab_size": 256}), tokenizer=numgpt.tokenizers.Bytes())
    tokenizer, bpe = numgpt.tokenizers.Bytes(), numgpt.tokenizers.BPE([b"a", b"b"], [])
    grads = model.params.like()
    grads.flat[:] = 1
    numgpt.llmc.save_model(folder / "model.bin", model)
    numgpt.llmc.save_tokens(folder / "tokens.bin", [1, 2])
    numgpt.llmc.save_state(folder / "state.bin", model, [[0, 1]], [[1, 2]])
    numgpt.llmc.save_tokenizer(folder / "tokenizer.bin", [b"a"], 0)
    tokenizer.save(folder / "tokenizer.json")
    model.save(folder / "model")
    model.extended(numgpt.LoRA(rank=1)).save(folder / "adapter", layout="peft")
    model.record([[0, 1]], [[1, 2]]).trace().save(folder / "trace.safetensors")
    training = numgpt.Training(steps=1, eval_iters=1, batch_size=1)
    arrays = {"q": (2, 3), "k": (2, 3), "v": (2, 3), "qkv": (2, 6), "logits": (2, 3, 5), "x": (2, 3)}
    floats = {name: np.ones(shape) for name, shape in arrays.items()}
    values = floats | {
        "config": config, "model": model, "tokenizer": tokenizer, "params": model.params, "grads": grads,
        "training": training, "corpus": corpus, "ids": [0, 1],
        "tokens": [[0, 1, 2]] * 2, "targets": [[1, 2, 3]] * 2,
        "vector": np.ones(model.n_params), "direction": np.ones(model.n_params), "dvalue": np.ones((2, 3, 5)),
        "dvalues": {"lm_head": np.ones((2, 3, 5))},
        "gradients": [[1.0, 2.0], [2.0, 1.0]], "forward": square_forward, "backward": square_backward,
        "folder": "new", "path": "new", "dtype": "float64", "text": "ab", "texts": ["ab", "ab"], "size": 300,
        "lr": 0.1, "step": 0, "n": 2, "n_head": 1, "n_active": 2, "name": "bytes", "high": 3, "T": 2,
        "batch_size": 1,
        "max_new_tokens": 2, "vocab_size": 257, "who": "law", "kind": "numgpt", "characters": "ab",
        "state": tokenizer.state(), "pretoken": "ab", "weight": np.ones((3, 3)), "end_of_text": 0,
        "pieces": [b"a"], "seed": 0, "function": square_forward, "arrays": [np.ones(2)],
        "directions": [np.ones(2)], "options": {}, "module": None, "a": model, "b": model,
        "GPT.beside.ids": np.array([0]), "GPT.to.name": "reference", "GPT.load.folder": folder / "model",
        "GPT.adapted.folder": folder / "adapter", "GPT.adapted.kind": "gpt2",
        "preset.name": "gpt-nano", "preset_training.name": "gpt-nano", "use.name": "reference",
        "learn.check.exercise": "softmax",
        "Trainer.save.name": "last", "calculus.softmax_curvature.direction": np.ones((2, 3, 5)),
        "llmc.kind_of.path": folder / "model.bin", "llmc.load.path": folder / "model.bin",
        "llmc.load_state.path": folder / "state.bin", "llmc.load_tokens.path": folder / "tokens.bin",
        "llmc.load_tokenizer.path": folder / "tokenizer.bin",
        "tokenizers.load.path": folder / "tokenizer.json",
        "tokenizers.BPE.tokens": [b"a", b"b", b"ab"],
        "tokenizers.BPE": bpe, "tokenizers.BPE.from_state.state": bpe.state(),
        "tokenizers.Characters.from_state.state": {"characters": "ab"},
        "tokenizers.expect_named.name": "bytes", "ops.cross_entropy.targets": [[1, 2, 3]] * 2,
        "ops.embedding.ids": [0, 1], "ops.layernorm.weight": np.ones(3),
        "prepare.paths": folder / "text.txt", "prepare.tokenizer": "bytes",
        "Trace": model.record([[0, 1]], [[1, 2]]).trace(), "Trace.read.path": folder / "trace.safetensors",
        "Trace.save.path": "new", "Trace.formula.name": "h.0.ln_1", "names": ["h.0"],
        "record": model.record([[0, 1]], [[1, 2]]),
        "GPT": model, "AdamW": numgpt.AdamW(model),
        "AdamW.load_state.arrays": numgpt.AdamW(model).state(), "AdamW.load_state.steps": 3,
        "tokenizers.Characters": numgpt.tokenizers.Characters("ab"),
        "Visibility": numgpt.Visibility(), "Visibility.packed.lengths": [[2, 1]], "lengths": [2, 3],
        "Config": config, "place": "qkv", "Visibility.padded.T": 3, "Visibility.prefix.T": 3,
        "Visibility.checked.shape": (2, 3),
        "Trainer": numgpt.Trainer(of_bytes, corpus, training), "Trainer.model": of_bytes,
        "tokenizers.Bytes": tokenizer, "tokenizers.Tokenizer": tokenizer,
        "torch_random.Generator": numgpt.torch_random.Generator(0),
    }  # fmt: skip

    file = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}
    pipeline = numgpt.tokenizers.Pipeline(file)
    pair = (square_forward, square_backward)
    by_line = [numgpt.ops.attend_groups, numgpt.ops.attention_scores]
    by_line += [numgpt.ops.part_rmsnorm, numgpt.ops.part_layernorm, numgpt.ops.heads_layernorm]
    by_line += [row.op for row in ACTIVATIONS.values() if row.gated]
    by_line += [op for op in numgpt.ops.ALL.values() if _has_names_of_its_own(op, values)]
    for op in by_line:
        drawn, _ = op.draw(np.random.default_rng(0), dict.fromkeys(string.ascii_uppercase, 2))
        values |= {f"ops.{op.name}.{argument.name}": array for argument, array in zip(op.arguments, drawn)}
    qkv, sink = numgpt.ops.sink_attention.draw(np.random.default_rng(0), {"T": 2, "K": 1, "G": 1, "D": 2})[0]
    values |= {"ops.sink_attention.qkv": qkv, "ops.sink_attention.sink": sink}
    values |= {"gradcheck.same.mine": pair, "gradcheck.same.theirs": pair}
    values |= {"tokenizers.ScoredPairs": scored("abab"), "tokenizers.ScoredPairs.file": scored("abab").file}
    values["tokenizers.ScoredPairs.from_state.state"] = scored("abab").state()
    values |= {"tokenizers.Pipeline": pipeline, "tokenizers.Pipeline.file": file}
    values["tokenizers.Pipeline.from_state.state"] = pipeline.state()
    (folder / "data.jsonl").write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d", "label": true}\n'
    )
    (folder / "task.csv").write_text("text,label\na,0\nb,1\n")
    said = [numgpt.data.Message("user", "a"), numgpt.data.Message("assistant", "b")]
    values |= {"data.Message.role": "user", "messages": said, "data.Preference.prompt": said[:1]}
    values |= {"data.Verdict.prompt": said[:1], "response": said[1:], "is_good": True}
    values |= {"data.Preference.chosen": said[1:], "data.Preference.rejected": [*said[1:], *said]}
    values |= {
        f"data.read_{name}.paths": folder / "data.jsonl"
        for name in ("conversations", "preferences", "prompts", "verdicts")
    }
    values |= {"data.Prompt.conversation": numgpt.data.Conversation(said[:1])}
    chat = numgpt.data.Conversation(said)
    example = numgpt.data.BARE.encode(chat, tokenizer)
    values |= {"conversation": chat, "examples": [example, example], "data.Rows.batch.rows": [0]}
    values |= {
        "data.ChatTemplate": numgpt.data.BARE,
        "data.ChatTemplate.from_state.state": numgpt.data.BARE.state(),
    }
    values |= {f"data.ChatTemplate.{name}": {"assistant": ""} for name in ("before", "behind")}
    values |= {"data.chat_template.name": "bare", "data.template_from_state.state": numgpt.data.BARE.state()}
    values |= {"data.Rows": numgpt.data.padded([example], 4), "plan": [[0, 1]], "block_size": 4}
    values |= {"sequences": [[1], [2, 3]], "specials": ["<|end|>"], "data.ChatTemplate.specials": []}
    if importlib.util.find_spec("jinja2"):
        source = "{% for m in messages %}{{ m.content }}{{ end_token }}{% endfor %}"
        jinja = numgpt.data.JinjaTemplate(source, {"end_token": "<|end|>"})
        (folder / "chat.jinja").write_text(source)
        values |= {
            "source": source,
            "data.JinjaTemplate": jinja,
            "data.JinjaTemplate.from_state.state": jinja.state(),
        }
        values |= {"data.from_tokenizer_config.path": folder / "chat.jinja"}
        ended = numgpt.tokenizers.with_specials(tokenizer, ["<|end|>"])
        for name in ("encode", "encode_prompt", "end_for"):
            values[f"data.JinjaTemplate.{name}.tokenizer"] = ended
    values |= {"data.read_task.paths": folder / "task.csv", "held_out": 0.5}
    values |= of_tuning(of_bytes, corpus, example, chat, training)
    values |= of_interpretability(model)
    values |= {f"ops.{norm}.weight": np.ones(3) for norm in numgpt.ops.norms.NORMS}
    values |= {
        "runs": numgpt.plots.Run("r", [{"step": 1, "loss": 2.0}]),
        "entries": [{"step": 1, "loss": 2.0}],
        "plots.rewards.runs": numgpt.plots.Run("r", [{"step": 1, "reward": 2.0, "kl": 0.1}]),
    }
    values |= {"trace": values["Trace"], "Trace.explore.path": "new.html", "pages.explore.path": "new.html"}
    values |= {"pages.Page": numgpt.pages.explore(values["Trace"]), "pages.Page.save.path": "new.html"}
    values |= {"of": model, "plots.attention.prompt": [0, 1], "plots.gradients.tokens": [0, 1]}
    values |= {"plots.gradients.targets": [1, 2], "plots.read.path": folder / "log.jsonl"}
    values |= {"plots.save.path": "new.png", "plots.save_or_show.path": "new.png"}
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    if importlib.util.find_spec("matplotlib"):
        import matplotlib.figure

        matplotlib.use("Agg")
        values |= {f"plots.{name}.figure": matplotlib.figure.Figure() for name in ("save", "save_or_show")}
    if importlib.util.find_spec("sentencepiece"):
        unigram = numgpt.tokenizers.Unigram.build((folder / "text.txt").read_text(), 300)
        values |= {"tokenizers.Unigram": unigram, "tokenizers.Unigram.model": unigram.model}
        values["tokenizers.Unigram.from_state.state"] = unigram.state()

    def value(name, parameter):
        full = f"{name}.{parameter.name}"
        if full in values:
            return values[full]
        if parameter.default is not inspect.Parameter.empty:
            return parameter.default
        assert parameter.name in values, f"{full}: this law needs a right value for it"
        return values[parameter.name]

    value.instances = values
    return value


def of_interpretability(model):
    """What is right for numgpt.interpretability."""
    inside = numgpt.interpretability
    metric, surprise = inside.logit_difference(model, 1, 2), inside.surprise(model, [1, 2, 3])
    values = {
        "clean": [0, 1, 2], "corrupted": [0, 3, 2], "prompt": [0, 1, 2], "metric": metric, "answer": 1,
        "wrong": 2, "subject": (0, 1), "layer": 0, "head": 0, "pattern": np.eye(3), "offset": 1,
        "induction_score.period": 2,
        "prompts": [[0, 1], [1, 2], [2, 3], [3, 4]], "labels": [0, 1, 0, 1], "toward": [0, 1],
        "away": [2, 3], "corpus": [0, 1, 2, 3, 4], "names": "wte", "rank_correlation.a": [1, 2],
        "rank_correlation.b": [2, 1], "detect_head.kind": "induction", "ids": [0, 1, 0],
        "steered.vector": inside.steering_vector(model, [0], [1], 0), "targets": [1, 2, 3],
        "AnswerMetric": metric, "AnswerMetric.value.logits": np.eye(5), "Surprise": surprise,
        "AnswerMetric.gradient.logits": np.eye(5), "Surprise.value.logits": np.ones((1, 3, 5)),
        "Surprise.gradient.logits": np.ones((1, 3, 5)), "HeadScores": inside.head_scores(model),
        "HeadScores.best.kind": "induction", "HookNames": inside.hook_names(model.config),
        "HookNames.theirs.name": "hook_embed", "HookNames.ours.name": "wte", "value": np.ones((1, 3, 4)),
        "Hook": inside.hook_names(model.config).hooks[0], "values": {"wte": np.ones((1, 3, 4))},
    }  # fmt: skip
    names = [name for name in PUBLIC if name.startswith("interpretability.")]
    own = {f"{name}.{p}": values[p] for name in names for p in parameters(name) if p in values}
    own |= {f"interpretability.{name}": value for name, value in values.items()}
    return own | of_pictures(model, metric)


def of_pictures(model, metric):
    """What is right for the pictures and pages of what numgpt.interpretability finds."""
    inside, prompt = numgpt.interpretability, [0, 1, 2]
    patching = inside.activation_patching(model, prompt, [0, 3, 2], metric)
    found = {
        "plots.lens": inside.logit_lens(model, prompt), "plots.patching": patching,
        "plots.heads": inside.head_scores(model), "pages.patching": patching,
        "plots.tracing": inside.causal_tracing(model, prompt, (0, 1), draws=2),
        "plots.attribution": inside.direct_logit_attribution(model, prompt, 1, 2),
        "plots.token_attribution": inside.gradient_times_input(model, prompt, metric),
        "plots.neurons": inside.strongest_activations(model, prompt, 0),
        "plots.ablation": inside.ablation(model, prompt, metric),
        "plots.path_patching": inside.path_patching(model, prompt, [0, 3, 2], metric),
        "plots.eigenvalues": inside.ov_circuit(model, 0, 0),
        "pages.attention": inside.attention_maps(model, prompt),
    }  # fmt: skip
    paths = {f"pages.{name}.path": "new.html" for name in ("attention", "patching")}
    return paths | {f"{name}.found": value for name, value in found.items()}


def of_tuning(model, corpus, example, chat, training):
    """What is right for numgpt.tuning, and for what a model may have besides its own parameters."""
    tuning, pairs, texts = numgpt.tuning, [(example, example)], [[1, 2], [3]]
    scored = model.extended(numgpt.Head(labels=("a", "b")))
    rewarded = model.extended(numgpt.Head(task="reward"))
    asked = numgpt.data.Conversation(chat.messages[:1])
    fixed = tuning.frozen(model)
    judged = [(example, True), (example, False)]
    two = dataclasses.replace(training, batch_size=2)
    verdicts = tuning.Verdicts(model, judged, two, 4, fixed, judged)
    preferences = tuning.Preferences(pairs, training, 4, fixed, pairs)
    of_groups = ("rloo", "grpo", "dr_grpo", "reinforce_pp")
    groups = {f"tuning.{name}.rewards": [[1, 0], [1, 1]] for name in of_groups}
    critic = {f"tuning.gae.{name}": np.ones((2, 3)) for name in ("rewards", "values", "weights")}
    return of_rewards(rewarded, asked) | of_reinforcement(model, asked, training) | groups | critic | {
        "tuning.gae.ended": [True, False], "kl": 5.0, "target": 6.0, "horizon": 100.0,
        "tuning.adaptive_beta.beta": 0.1,
        "Head.labels": ("a", "b"), "Head": numgpt.Head(labels=("a", "b")), "LoRA": numgpt.LoRA(),
        "tuning.Distillation": tuning.Distillation(model, corpus, training, 4),
        "tuning.Responses": tuning.Responses([example], training, 4), "fixed": fixed,
        "tuning.Preferences.pairs": pairs, "tuning.Preferences": preferences,
        "tuning.Verdicts": verdicts, "tuning.Verdicts.model": model, "judged": judged,
        "tuning.Verdicts.training": two,
        "tuning.gains.model": model, "tuning.gains.objective": verdicts,
        "tuning.Rewards.model": rewarded, "tuning.Rewards.pairs": [([1, 2], [3])],
        "tuning.Rewards": tuning.Rewards(rewarded, [([1, 2], [3])], training),
        "tuning.Tasks.model": scored, "tuning.Tasks.texts": texts, "labels": np.array([0, 1]),
        "tuning.Tasks": tuning.Tasks(scored, texts, np.array([0, 1]), training),
        "tuning.predictions.model": scored, "tuning.predictions.texts": texts, "teacher": model,
        "tuning.margins.model": model, "objective": preferences, "tuning.respond.model": model,
        "conversations": [asked], "template": numgpt.data.BARE, "tuning.optimizer_of.names": None, "batch": 0,
        "tuning.frozen.model": model, "tuning.trained_names.model": model, "tuning.optimizer_of.model": model,
    }  # fmt: skip


def of_rewards(rewarded, asked):
    """What is right for what gives rewards."""
    rewarded.template = numgpt.data.BARE.state()
    prompts = [numgpt.data.Prompt(asked)]

    def reward(prompts, responses):
        return [1.0] * len(responses)

    tuning = numgpt.tuning
    return {
        "tuning.ModelReward.model": rewarded, "tuning.FunctionReward.function": lambda p, r, f: 1.0,
        "tuning.FunctionReward": tuning.FunctionReward(lambda p, r, f: 1.0),
        "tuning.ModelReward": tuning.ModelReward(rewarded), "tuning.rewarded.reward": reward,
        "prompts": prompts, "responses": ["b"],
        "tuning.ModelReward.normalised.prompts": 2 * prompts,
        "tuning.ModelReward.normalised.responses": ["b", "c"], "tuning.reward_of.place": "operator:setitem",
    }  # fmt: skip


def of_reinforcement(model, asked, training):
    """What is right for objectives of reinforcement, and what they are made of."""
    tuning = numgpt.tuning
    longer = dataclasses.replace(model.config, vocab_size=256, block_size=80)
    policy = numgpt.GPT(longer, seed=0, tokenizer=numgpt.tokenizers.Bytes())
    critic = policy.extended(numgpt.Head(task="value", pool="none"))
    prompts, row = [numgpt.data.Prompt(asked)], np.array([1])
    twice = dataclasses.replace(training, accumulate=4)
    reinforced = prompts, lambda prompts, responses: np.zeros(len(responses)), twice, tuning.frozen(policy)
    return {
        "tuning.PPO.model": critic, "tuning.PPO.prompts": prompts, "tuning.PolicyGradient.prompts": prompts,
        "tuning.PPO": tuning.PPO(critic, *reinforced, template=numgpt.data.BARE),
        "tuning.PolicyGradient": tuning.PolicyGradient(policy, *reinforced, template=numgpt.data.BARE),
        "tuning.PolicyGradient.model": policy, "tuning.sample.model": policy, "reward": reinforced[1],
        "tuning.score.model": policy, "tuning.PPO.load_state.entries": {"beta": 0.5},
        "tuning.sample.prompts": [row], "end": numgpt.data.End("!", None),
        "rollout": tuning.Rollout(np.array([[1, 2]]), row, row, row > 0, np.zeros(1)),
    }  # fmt: skip


def _has_names_of_its_own(op, values):
    """Whether an op takes arrays that are called by no name of values."""
    needed = [argument.name for argument in op.arguments if not argument.optional]
    return not all(name in values or f"ops.{op.name}.{name}" in values for name in needed)


# The law.


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
