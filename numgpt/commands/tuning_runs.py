"""Runs of numgpt tune: how one begins, goes on and ends."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import user_code
from ..architecture.config import Training
from ..architecture.fields import from_dict
from ..architecture.tunings import ITERATIONS, TUNINGS
from ..errors import InputError
from . import flags, reinforcement_reports, runs, several, tuning_reports
from .beginnings import place_of
from .places import expect_apart
from .printing import plural, say

if TYPE_CHECKING:
    from ..model.gpt import GPT
    from ..training.trainer import Trainer

FASTER = 6.0  # times the learning rate, for adapters
START = "start"  # in a run's folder: the model that preferences are compared with, where that is not in last
# What batch_size counts; prompts where it is not said.
UNITS = {"sft": "row", "classify": "text", "reward": "pair", "dpo": "pair", "kto": "response"}
# Flags whose dest is not the name in the recipe.
DESTS = {
    "text": "text_column",
    "label": "label_column",
    "clip": "cliprange",
    "clip_high": "cliprange_high",
    "epochs": "epochs_per_rollout",
    "batches": "minibatches",
}


class TuningRun(NamedTuple):
    """A run that is ready to go on."""

    kind: str
    trainer: Trainer
    prompts: list[Any]
    out: Path

    @property
    def samples(self) -> bool:
        """Whether it learns from responses of its own."""
        return TUNINGS[self.kind].samples


def begun(args: argparse.Namespace, out: Path) -> TuningRun:
    """A new run; nothing is written yet."""
    from ..data import chat_template
    from ..model.gpt import GPT
    from ..tuning import frozen, recipes

    kind = args.action
    samples = TUNINGS[kind].samples
    files = "--prompts" if samples else "--data"
    needed = [("MODEL", args.model), (files, args.data)]
    if samples:
        needed.append(("--reward", args.reward))
    for what, given in needed:
        if not given:
            more = " --reward MODEL|FILE.py:NAME" if samples else ""
            raise InputError(
                f"tune {kind}: there is no {what}, expected the model to begin with and {files} with files:"
                f" numgpt tune {kind} MODEL {files} FILE{more}"
            )
    read = [*args.data, args.model]
    if samples:
        read.append(args.reward.rpartition(":")[0] if user_code.is_named(args.reward) else args.reward)
    expect_apart(read, [out / name for name in (*runs.MAY_BE_THERE, "last")])
    model = GPT.load(args.model, args.dtype)
    recipe = TUNINGS[kind].recipe | _given(args) | {"tune": kind, "model": place_of(args.model)}
    recipe["paths"] = [place_of(path) for path in args.data]
    if kind != "classify":
        own = model.template or chat_template("plain").state()
        recipe["template"] = own if args.template is None else chat_template(args.template).state()
    usual = TUNINGS[kind].training
    if args.lora is not None:  # what is narrow, and begins at 0, takes a larger rate
        usual = dataclasses.replace(usual, lr=FASTER * usual.lr)
    training = several.cut(dataclasses.replace(usual, **flags.fields(args, Training)), args)
    _say_if_merged(model, args.model)
    if samples and args.max_new_tokens is None:
        recipe["max_new_tokens"] = min(recipe["max_new_tokens"], model.config.block_size // 2)
    model = recipes.begun(kind, model, recipe, training.seed)
    fixed: Any = None
    if TUNINGS[kind].compares:
        fixed = frozen(model) if _keeps_its_start(model, recipe) else model.astype(model.params.dtype)
    if samples and recipe["normalise_reward"]:
        recipes.normalised(model, recipe, training.seed)
    tuning = _run(args, out, model, training, recipe, fixed)
    if samples and tuning.trainer.training.steps:  # what the reward refuses is found before anything is kept
        tuning.trainer.objective.batch(0, 0)
    return tuning


def resumed(args: argparse.Namespace, out: Path) -> TuningRun:
    """The run in a folder, at its last checkpoint; flags may change its training, not what is trained."""
    from ..interchange.checkpoint import read_state
    from ..model.gpt import GPT

    state = read_state(out / "last")
    recipe = dict(state["recipe"])
    _expect_same(args, out, state)
    model = GPT.load(out / "last")
    if args.dtype and args.dtype != model.params.dtype.name:
        raise InputError(
            f"{out}: the run's model is {model.params.dtype}, expected {args.dtype} by --dtype: leave it out,"
            " or choose another --out"
        )
    if args.data:
        recipe["paths"] = [place_of(path) for path in args.data]
    training = from_dict(Training, state["training"] | flags.fields(args, Training))
    fixed = _fixed(out, model, recipe) if TUNINGS[args.action].compares else None
    tuning = _run(args, out, model, training, recipe, fixed)
    tuning.trainer.resume()
    return tuning


def _run(
    args: argparse.Namespace, out: Path, model: GPT, training: Training, recipe: dict[str, Any], fixed: Any
) -> TuningRun:
    from ..training.trainer import Trainer
    from ..tuning import optimizer_of, recipes

    kind = args.action
    made = recipes.made(kind, model, training, recipe, fixed)
    steps_of = _steps_of_iterations if TUNINGS[kind].samples else _steps
    steps = steps_of(args, made.objective, training, runs.goes_on(out))
    training = dataclasses.replace(training, steps=steps)
    if not (hasattr(args, "warmup") or runs.goes_on(out)):
        training = dataclasses.replace(training, warmup=min(training.warmup, steps // 10))
    made.objective.training = training
    optimizer = optimizer_of(model, training, recipes.moved(kind, model, recipe))
    who = several.distribution(args)
    trainer = Trainer(model, None, training, out, made.objective, optimizer, distribution=who)
    return TuningRun(kind, trainer, made.prompts, out)


def _steps_of_iterations(args: argparse.Namespace, objective: Any, training: Training, goes_on: bool) -> int:
    """How many steps a run has that samples: those of its iterations."""
    if goes_on and args.iterations is None:
        return training.steps
    return objective.per_iteration * (ITERATIONS if args.iterations is None else args.iterations)


def _steps(args: argparse.Namespace, objective: Any, training: Training, goes_on: bool) -> int:
    """How many steps a run has: those that a flag says, or its own, or as many as make the epochs."""
    has_steps = hasattr(args, "steps")
    if args.epochs is not None and has_steps:
        raise InputError(f"tune {args.action}: --epochs and --steps are given, expected one of them")
    if args.epochs is not None and not 0 < args.epochs < math.inf:
        raise InputError(f"tune {args.action}: --epochs is {args.epochs}, expected a number above 0")
    if has_steps or (goes_on and args.epochs is None):
        return training.steps
    epochs = TUNINGS[args.action].epochs if args.epochs is None else args.epochs
    return math.ceil(epochs * objective.size / (training.batch_size * training.accumulate))


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The entries of the recipe that flags gave, but for those that stand in it in other words."""
    names = [name for name in TUNINGS[args.action].recipe if name not in ("model", "template")]
    given = {name: getattr(args, DESTS.get(name, name), None) for name in names}
    reward = given.get("reward")
    if reward is not None:
        given["reward"] = _whole(reward)
    return {name: value for name, value in given.items() if value is not None}


def _whole(reward: str) -> str:
    """The name of what gives rewards, the same from every folder."""
    if not user_code.is_named(reward):
        return place_of(reward)
    place, _, name = reward.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if place.endswith(".py") else reward


def _expect_same(args: argparse.Namespace, out: Path, state: dict[str, Any]) -> None:
    """Raise InputError where a run is of another kind, or flags ask it for another recipe."""
    from ..data import chat_template

    recipe = state["recipe"]
    command = runs.resuming(out, recipe)
    if recipe.get("tune") != args.action:
        raise InputError(f"{out}: is no run of numgpt tune {args.action}, expected one: go on by {command}")
    wanted = _given(args)
    if args.model:
        wanted["model"] = place_of(args.model)
    if getattr(args, "template", None):
        wanted["template"] = chat_template(args.template).state()
    if hasattr(args, "seed"):
        wanted["seed"] = args.seed
    for name, value in wanted.items():
        actual = state["training"].get("seed") if name == "seed" else recipe.get(name)
        if actual != value:
            own, other = (v["name"] if name == "template" else v for v in (actual, value))
            raise InputError(
                f"{out}: the run has {name} {own}, expected {other} by the flags: leave them out, or choose"
                " another --out"
            )


def _fixed(out: Path, model: GPT, recipe: dict[str, Any]) -> Any:
    """The model that preferences are compared with: the one that the run began with."""
    from ..model.gpt import GPT
    from ..tuning import frozen

    return frozen(model) if _keeps_its_start(model, recipe) else GPT.load(out / START)


def _keeps_its_start(model: GPT, recipe: dict[str, Any]) -> bool:
    """Whether a model still has all parameters that it began with, beside an adapter."""
    from ..tuning.trained import has_adapter

    return has_adapter(model) and not recipe["vocabulary"]


def _say_if_merged(model: GPT, name: str) -> None:
    from ..tuning.trained import has_adapter

    if has_adapter(model):
        say(f"numgpt: the adapter of {name} is multiplied out, and its matrices are tuned from there")


def tuned(tuning: TuningRun, args: argparse.Namespace, is_begun: bool) -> int:
    """Train to the end, and report it; the exit status."""
    trainer, out = tuning.trainer, tuning.out
    again = runs.resuming(out, {"tune": tuning.kind})
    if is_begun and trainer.updates >= trainer.training.steps:
        more = 2 * max(trainer.updates, 1)
        flag = f"--iterations {more // trainer.per_iteration}" if tuning.samples else f"--steps {more}"
        say(
            f"{out}: was complete: step {trainer.updates} of {trainer.training.steps},"
            f" {runs.held_out(trainer)}\ntrain on with: {again} {flag}"
        )
        return 0
    announce(tuning, is_begun)
    if TUNINGS[tuning.kind].compares and trainer.updates == 0:
        _save_start(tuning)
    of_kind = reinforcement_reports.RewardReports if tuning.samples else tuning_reports.Reports
    reports = of_kind(tuning.kind, tuning.prompts, args)
    reports.begin(trainer)
    try:
        if not runs.trained(trainer, out, args.time_limit, reports.beside):
            return 1
    except InputError as error:
        if tuning.samples:
            raise _saved(trainer, again, error) from error
        raise
    status = runs.say_stopped(trainer, again)
    if status is not None or not trainer.distribution.is_first:
        return status or 0
    return reports.at_the_end(trainer, out)


def _saved(trainer: Trainer, again: str, error: InputError) -> InputError:
    """Keep a run whose reward cannot be used, and say so: what it has learned is not lost."""
    if trainer.saved != trainer.updates:
        trainer.save("last")
    return InputError(f"{error}; the run is saved at step {trainer.saved}: mend it and go on by {again}")


def _save_start(tuning: TuningRun) -> None:
    """Keep the model that a run begins with and is compared with, where last/ will not have it."""
    from ..interchange import checkpoint

    trainer: Any = tuning.trainer
    if trainer.distribution.is_first and not _keeps_its_start(trainer.model, trainer.objective.recipe):
        checkpoint.save(tuning.out / START, trainer.model)


def announce(tuning: TuningRun, is_begun: bool) -> None:
    """Say what is about to be trained, on what, and where."""
    trainer: Any = tuning.trainer
    model, training, objective = trainer.model, trainer.training, trainer.objective
    say(f"data    {objective.source}: {_amount(tuning)}")
    if tuning.samples:
        say(f"reward  {objective.recipe['reward']}")
    moved = trainer.grads.flat.size
    some = "" if moved == model.n_params else f", {moved:,} of them trained"
    at = f", resumed at step {trainer.updates}" if is_begun else ""
    template = f", template {model.template['name']}" if tuning.kind != "classify" else ""
    say(
        f"model   {model.n_params:,} parameters{some}, {runs.numbers(trainer)}, seed"
        f" {training.seed}{template}; run in {tuning.out}{at}"
    )


def _amount(tuning: TuningRun) -> str:
    """How much there is to train on, and how often that is done."""
    trainer: Any = tuning.trainer
    training, objective = trainer.training, trainer.objective
    count = plural(objective.size, UNITS.get(tuning.kind, "prompt"))
    if not tuning.samples:
        epochs = training.steps * training.batch_size * training.accumulate / objective.size
        return f"{count} to train on, {plural(training.steps, 'step')} are {epochs:.3g} epochs"
    each = training.batch_size * training.accumulate * objective.batches
    iterations = plural(training.steps // objective.per_iteration, "iteration")
    return (
        f"{count} to train on, {iterations} of {plural(each, 'prompt')} with"
        f" {plural(objective.group, 'response')}, {plural(objective.per_iteration, 'step')} each"
    )
