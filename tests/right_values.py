"""An argument that is right, for each parameter of the public face, by its name."""

import dataclasses
import importlib.util
import inspect
import string

import numpy as np
from public_calls import PUBLIC, parameters
from tokenizer_samples import scored

import numgpt
from numgpt.ops.activations import ACTIVATIONS

SMALL = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 2, "n_embd": 4}


def square_forward(x):
    return x * x, x


def square_backward(dy, x):
    return (2 * x * dy,)


def right_values(folder):
    """A function that gives an argument which is right, by the name of its parameter; folder: for files."""
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
        "AdamW.moves_only.part": slice(0, 9),
        **{f"tuning.{kind}.share.{name}": value for kind in ("PPO", "PolicyGradient")
           for name, value in {"rank": 0, "size": 1, "gather": np.asarray}.items()},
        "Muon": numgpt.Muon(model), "Muon.load_state.arrays": numgpt.Muon(model).state(),
        "Muon.load_state.steps": 3,
        "tokenizers.Characters": numgpt.tokenizers.Characters("ab"),
        "Visibility": numgpt.Visibility(), "Visibility.packed.lengths": [[2, 1]],
        "Visibility.documents.tokens": [[1, 0, 2]], "Visibility.documents.begin": 0, "lengths": [2, 3],
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
    values |= of_evaluation(of_bytes, folder)
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


def of_evaluation(model, folder):
    """What is right for numgpt.evaluation, and for the pictures of what it finds."""
    evaluation = numgpt.evaluation
    longer = dataclasses.replace(model.config, block_size=24)
    reader = numgpt.GPT(longer, tokenizer=numgpt.tokenizers.Bytes())
    questions = [evaluation.Question(text, ("a", "b")) for text in ("cd", "ef")]
    suite = evaluation.Suite("s", questions)
    result = evaluation.evaluate(reader, suite)
    curve = evaluation.loss_by_position(reader, np.arange(60))
    suite.save(folder / "questions.jsonl")
    (folder / "passages.jsonl").write_text('{"text": "a b"}\n')
    (folder / "wiki.raw").write_text(" = A = \n \n b c d .\n")
    values = {
        "first": 1, "last": 2, "early": 1, "late": 2, "Positions": curve, "Result": result, "other": result,
        "Suite": suite, "questions": questions, "Suite.save.path": "new.jsonl", "scores": [0, 1, 1],
        "others": [1, 1, 0], "weights": [1, 2, 3], "model": reader, "suite": suite, "pairs": [("ab", "c")],
        "lambada.path": folder / "passages.jsonl", "ids": np.arange(60), "windows": 2, "n": 4, "right": 1,
        "k": 2, "read_suite.path": folder / "questions.jsonl", "read_suite.limit": 2,
        "suite.name": "copy", "suite.questions": 2, "wikitext.path": folder / "wiki.raw", "draws": 3,
        "Suite.shots": 0, "Suite.max_new_tokens": 0, "evaluate.shots": 0, "Suite.prompts.shots": 1, "seed": 0,
        "Question.choices": ("a", "b"), "Suite.examples": (), "group": None, "Question.group": "",
    }  # fmt: skip
    names = [name for name in PUBLIC if name.startswith("evaluation.")]
    own = {f"{name}.{p}": values[p] for name in names for p in parameters(name) if p in values}
    own |= {f"evaluation.{name}": value for name, value in values.items()}
    return own | {"plots.scores.found": result, "plots.positions.found": curve}


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
        "Pruned": numgpt.Pruned(), "Pruned.targets": ("h.*",), **of_pruning(),
        "Quantized": numgpt.Quantized(), "bits": 8, "group": 64, "clip": "absmax", "calibration": None,
        "anchors": [tuning.Anchor(model)], "tuning.Anchored.objective": preferences,
        "tuning.Anchored.weight": 1.0,
        "tuning.Anchored": tuning.Anchored(preferences, [tuning.Anchor(model)], 1.0),
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


def of_pruning():
    """Right arguments of GPT.pruned."""
    of_names = {"targets": ("h.*",), "criterion": "magnitude", "data": None, "within": "part"}
    named = {"sparsity": 0.5, "pattern": None, "structured": None, **of_names}
    return {f"GPT.pruned.{name}": value for name, value in named.items()}


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
