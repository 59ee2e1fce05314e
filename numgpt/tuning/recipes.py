"""Recipes: from a model and files to what is trained and by what, the same again when a run goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architecture.additions import Head, LoRA, extended
from ..architecture.config import Training
from ..architecture.tunings import TUNINGS
from ..data import (
    Conversation,
    Example,
    Preference,
    Prompt,
    padded,
    permuted_split,
    read_conversations,
    read_preferences,
    read_prompts,
    read_task,
    read_verdicts,
    template_from_state,
)
from ..errors import InputError
from ..model.gpt import GPT
from ..random import generator
from ..training.agreement import expect_floats
from .classify import Tasks, head_of
from .policy_gradient import PolicyGradient
from .ppo import PPO
from .prefer import Preferences
from .respond import respond
from .reward_functions import FunctionReward, ModelReward, reward_of
from .rewards import Rewards
from .sft import Responses
from .texts import cut, text_ids
from .trained import has_adapter, trained_names
from .verdicts import Verdicts
from .vocabulary import grown

Recipe = Mapping[str, Any]
PROMPTS = 4  # that are answered as samples
REFERENCES = 256  # responses by which a reward model's numbers are normalised


class Asked(NamedTuple):
    """What is said before a response, and the response."""

    conversation: Conversation
    response: str


class Made(NamedTuple):
    """What a recipe makes: an objective, and prompts of what is held out, or else of what is trained on.

    Where the model samples, they are data.Prompts, all that are held out.
    """

    objective: Any
    prompts: list[Any]


def begun(kind: str, model: GPT, recipe: dict[str, Any], seed: int) -> GPT:
    """The model that is trained, made of the one that tuning begins with; the recipe notes new tokens.

    An adapter that it has is multiplied out, and a critic left out that nothing asks. It gets the template's
    special tokens, and rows for them; a head; a new adapter. What is drawn of these depends on the seed
    alone.
    """
    own = model.tokenizer
    if own is None:
        raise InputError(
            f"tune {kind}: the model has no tokenizer, expected one to read the texts: train one with it"
        )
    if recipe["lora"] is None:
        expect_floats(f"tune {kind}", model)
    if has_adapter(model):
        model = model.merged()
    config = model.config
    if kind == "reward" or TUNINGS[kind].compares:  # else scores were noise, and the first step no beginning
        config = dataclasses.replace(config, dropout=0.0)
    critics = [a for a in model.additions if isinstance(a, Head) and a.task == "value" and kind != "ppo"]
    additions = tuple(a for a in model.additions if a not in critics)
    params = extended(model.params, config, additions, seed) if critics else model.params
    kept: tuple[Any, ...] = params, model.replaced, additions, model.template
    model = GPT(config, seed, model.params.dtype, own, *kept)
    added: list[LoRA | Head] = []
    if kind == "ppo":
        added += _critic(model)
    elif TUNINGS[kind].reads_text:
        _expect_no_head(kind, model)
    elif not any(isinstance(addition, Head) for addition in model.additions):
        added.append(_head(kind, recipe))
    if recipe["template"] is not None:
        template = template_from_state(recipe["template"])
        tokenizer = template.with_specials(own)
        if tokenizer is not own:
            recipe["vocabulary"] = recipe["lora"] is not None
            model = grown(model, tokenizer)
        model.template = template.state()
    if recipe["lora"] is not None:
        added.append(_adapter(recipe))
    return model.extended(*added) if added else model


def _adapter(recipe: Recipe) -> LoRA:
    rank, alpha = recipe["lora"], recipe["lora_alpha"]
    return LoRA(
        rank=rank,
        alpha=2.0 * rank if alpha is None else alpha,
        targets=tuple(recipe["lora_targets"]),
        rslora=recipe["rslora"],
    )


def _head(kind: str, recipe: Recipe) -> Head:
    """The head that a task asks for: of its classes, as they are found in the files, or of a number."""
    if kind == "reward":
        return Head(task="reward", pool=recipe["pool"])
    if recipe["numbers"]:
        return Head(task="numbers", labels=(recipe["label"],), pool=recipe["pool"])
    task = read_task(recipe["paths"], text=recipe["text"], label=recipe["label"])
    assert task.classes is not None, "labels are no numbers"
    return Head(labels=task.classes, pool=recipe["pool"])


def _critic(model: GPT) -> list[Head]:
    """The head of a critic, unless a model has one."""
    own = [addition for addition in model.additions if isinstance(addition, Head)]
    if [head.task for head in own] == ["value"]:
        return []
    _expect_no_head("ppo", model)
    return [Head(task="value", pool="none")]


def _expect_no_head(kind: str, model: GPT) -> None:
    head = next((a for a in model.additions if isinstance(a, Head)), None)
    if head is not None:
        raise InputError(
            f"tune {kind}: the model has a head for {head.task}, expected one that writes: give the model"
            " that the head was added to"
        )


def moved(kind: str, model: GPT, recipe: Recipe) -> list[str] | None:
    """The names of the parameters that a recipe trains; None for all."""
    reads_text = TUNINGS[kind].reads_text or recipe.get("text_weight", 0.0) > 0
    return trained_names(model, reads_text, recipe["vocabulary"])


def made(kind: str, model: GPT, training: Training, recipe: Recipe, fixed: Any = None) -> Made:
    """The objective of a recipe, and prompts for samples.

    fixed: of preferences, the model that they are compared with.
    """
    unknown = sorted({*recipe} ^ {*TUNINGS[kind].recipe, "tune"})
    if unknown:
        what = "missing" if unknown[0] not in recipe else "not expected"
        raise InputError(f"the run's recipe: {unknown[0]} is {what}, expected it as numgpt wrote it")
    try:
        result = BUILDERS[kind](model, training, recipe, fixed)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the run's recipe cannot be followed ({error}), expected it as numgpt wrote it"
        ) from error
    result.objective.recipe = dict(recipe)
    return result


def _options(kind: str, recipe: Recipe) -> dict[str, Any]:
    source = ", ".join(str(path) for path in recipe["paths"])
    return {name: recipe[name] for name in TUNINGS[kind].options} | {"source": source}


def _responses(model: GPT, training: Training, recipe: Recipe, fixed: Any) -> Made:
    template, tokenizer = template_from_state(recipe["template"]), model.tokenizer
    assert tokenizer is not None, "begun() refuses it"
    conversations = read_conversations(recipe["paths"])
    examples = [template.encode(c, tokenizer) for c in conversations]
    train, held_out = permuted_split(len(examples), recipe["held_out"], training.seed)
    objective = Responses(
        [examples[i] for i in train],
        training,
        model.config.block_size,
        [examples[i] for i in held_out],
        **_options("sft", recipe),
    )
    shown = held_out if len(held_out) else train
    return Made(objective, _prompts([conversations[i] for i in _spread(shown)]))


def _spread(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """A few items from all over a file, whose first ones may be of one kind."""
    places = np.linspace(0, len(items) - 1, min(len(items), PROMPTS)).round().astype(np.int64)
    return items[places]


def _prompts(conversations: Sequence[Conversation]) -> list[Asked]:
    """The last responses of conversations, each with what was said before."""
    prompts = []
    for conversation in conversations:
        messages = conversation.messages
        n = max(n for n, message in enumerate(messages) if message.role == "assistant")
        if n:
            prompts.append(Asked(Conversation(messages[:n], conversation.place), messages[n].text))
    return prompts


def _cut(examples: list[Example], model: GPT) -> list[Example]:
    """Examples whose responses end where the context does."""
    return padded(examples, model.config.block_size, truncate=True).examples


class _Pairs(NamedTuple):
    """Preferences as examples: those to train on and those held out, and prompts."""

    train: list[tuple[Example, Example]]
    held_out: list[tuple[Example, Example]]
    prompts: list[Asked]


def _pairs(model: GPT, recipe: Recipe, seed: int) -> _Pairs:
    template, tokenizer = template_from_state(recipe["template"]), model.tokenizer
    assert tokenizer is not None, "begun() refuses it"
    read = read_preferences(recipe["paths"])

    def sides(pair: Preference) -> tuple[Example, Example]:
        n = len(pair.prompt)
        chosen, rejected = (template.encode(side, tokenizer, context=n) for side in pair.sides)
        return chosen, rejected

    pairs = [sides(pair) for pair in read]
    if recipe["truncate"] and TUNINGS[recipe["tune"]].reads_text:
        cut_sides = _cut([side for pair in pairs for side in pair], model)
        pairs = list(zip(cut_sides[::2], cut_sides[1::2]))
    # Pairs of one prompt stay on one side, else what is held out would have been half seen.
    groups = [p.prompt if p.prompt else n for n, p in enumerate(read)]
    train, held_out = permuted_split(len(pairs), recipe["held_out"], seed, groups=groups)
    shown = held_out if len(held_out) else train
    prompts = _prompts([read[i].sides[0] for i in _spread(shown)])
    return _Pairs([pairs[i] for i in train], [pairs[i] for i in held_out], prompts)


def _preferences(model: GPT, training: Training, recipe: Recipe, fixed: Any) -> Made:
    pairs = _pairs(model, recipe, training.seed)
    size, options = model.config.block_size, _options("dpo", recipe)
    objective = Preferences(pairs.train, training, size, fixed, pairs.held_out, **options)
    return Made(objective, pairs.prompts)


def _verdicts(model: GPT, training: Training, recipe: Recipe, fixed: Any) -> Made:
    template, tokenizer = template_from_state(recipe["template"]), model.tokenizer
    assert tokenizer is not None, "begun() refuses it"
    read = read_verdicts(recipe["paths"])
    examples = [template.encode(v.conversation, tokenizer, context=len(v.prompt)) for v in read]
    if recipe["truncate"]:
        examples = _cut(examples, model)
    judged = [(example, v.is_good) for example, v in zip(examples, read)]
    # As of pairs: what answers one prompt stays on one side.
    groups = [v.prompt if v.prompt else n for n, v in enumerate(read)]
    train, held_out = permuted_split(len(judged), recipe["held_out"], training.seed, groups=groups)
    objective = Verdicts(
        model,
        [judged[i] for i in train],
        training,
        model.config.block_size,
        fixed,
        [judged[i] for i in held_out],
        **_options("kto", recipe),
    )
    shown = held_out if len(held_out) else train
    good = np.array([i for i in shown if read[i].is_good], np.int64)
    return Made(objective, _prompts([read[i].conversation for i in _spread(good)]))


def _rewards(model: GPT, training: Training, recipe: Recipe, fixed: Any) -> Made:
    pairs, size = _pairs(model, recipe, training.seed), model.config.block_size
    every = [side.ids for pair in (*pairs.train, *pairs.held_out) for side in pair]
    sides = cut(every, size, recipe["truncate"], "preferences")
    found = list(zip(sides[::2], sides[1::2]))
    n = len(pairs.train)
    return Made(Rewards(model, found[:n], training, found[n:], **_options("reward", recipe)), [])


def _prompts_of(recipe: Recipe, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """(those to train on, those held out); equal prompts stay on one side."""
    prompts = read_prompts(recipe["paths"])
    groups = [prompt.conversation for prompt in prompts]
    train, held_out = permuted_split(len(prompts), recipe["held_out"], seed, groups=groups)
    return [prompts[i] for i in train], [prompts[i] for i in held_out]


def _reward(recipe: Recipe) -> FunctionReward | ModelReward:
    """What gives rewards; of a model, with the shift and scale of its numbers."""
    reward = reward_of(recipe["reward"])
    shift, scale = recipe["reward_shift"], recipe["reward_scale"]
    if isinstance(reward, ModelReward):
        return ModelReward(reward.model, shift=shift, scale=scale)
    if recipe["normalise_reward"]:
        raise InputError(
            f"{recipe['reward']}: is a function, expected a reward model to normalise: let the function do it"
        )
    return reward


def normalised(model: GPT, recipe: dict[str, Any], seed: int) -> None:
    """Note the shift and scale by which the rewards of a model's first responses have mean 0, variance 1."""
    reward = _reward(recipe)
    assert isinstance(reward, ModelReward), "_reward() refuses it"
    train, _ = _prompts_of(recipe, seed)
    some = [train[n] for n in generator(seed, "references").permutation(len(train))[:REFERENCES]]
    template = template_from_state(recipe["template"])
    sampling = {"temperature": recipe["temperature"], "max_new_tokens": recipe["max_new_tokens"]}
    answers = respond(model, [prompt.conversation for prompt in some], template, seed=seed, **sampling)
    scaled = reward.normalised(some, answers)
    recipe["reward_shift"], recipe["reward_scale"] = scaled.shift, scaled.scale


def _sampled(kind: str) -> Callable[[GPT, Training, Recipe, Any], Made]:
    """What builds an objective that learns from responses of the model."""

    def build(model: GPT, training: Training, recipe: Recipe, fixed: Any) -> Made:
        train, held_out = _prompts_of(recipe, training.seed)
        template = template_from_state(recipe["template"])
        cls: Any = PPO if kind == "ppo" else PolicyGradient
        size, most = model.config.block_size, recipe["max_new_tokens"]
        if most > size:
            raise InputError(
                f"{cls.__name__}: max_new_tokens is {most:,}, expected at most block_size {size:,}, less the"
                " prompt"
            )
        options = _options(kind, recipe) | {"template": template}
        return Made(cls(model, train, _reward(recipe), training, fixed, **options), held_out or train)

    return build


def _tasks(model: GPT, training: Training, recipe: Recipe, fixed: Any) -> Made:
    head = head_of(model, ("classes", "numbers"))
    names = {"text": recipe["text"], "label": recipe["label"]}
    if head.task == "numbers":
        task = read_task(recipe["paths"], **names, numbers=True)
    else:
        task = read_task(recipe["paths"], **names, classes=head.labels)
    texts = text_ids(model, task.texts, task.places, recipe["truncate"])
    train, held_out = permuted_split(len(texts), recipe["held_out"], training.seed)

    def part(items: Any) -> tuple[list[Any], Any]:
        return [texts[i] for i in items], task.labels[items]

    rest = part(held_out) if len(held_out) else None
    return Made(Tasks(model, *part(train), training, rest, **_options("classify", recipe)), [])


BUILDERS: dict[str, Callable[[GPT, Training, Recipe, Any], Made]] = {
    "sft": _responses,
    "classify": _tasks,
    "reward": _rewards,
    "dpo": _preferences,
    "kto": _verdicts,
    **{kind: _sampled(kind) for kind in ("ppo", "grpo", "rloo")},
}
