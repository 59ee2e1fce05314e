"""numgpt train: begin a run or resume one, train, and write some text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architecture import presets
from ..architecture.config import Config, Training
from ..architecture.fields import from_dict
from ..data.split import SPLITS
from ..errors import InputError
from ..storage.output import send_nowhere
from . import beginnings, flags, runs, several
from .places import expect_apart
from .printing import command_line, default_prompt, plural, print_texts, say
from .sample import TEMPERATURE, TOKENS, TOP_P

if TYPE_CHECKING:
    from ..data.corpus import Corpus
    from ..model.gpt import GPT
    from ..training.trainer import Trainer

HELP = "Train a GPT, and write some text with it."
EXAMPLE = "numgpt train --data FILE --preset gpt-nano --n-layer 2 --steps 200 --seed 1 --out DIR"

TOKENIZER = "bpe:512"
PARALLEL = (
    "data shares the batches of a step; tensor, sequence, pipeline and experts cut the model; data:2,tensor:2"
    " does both on four"
)
INIT_LR = 3e-4  # of a model that has learned something: less than what begins one, so that it is not lost
# Why a text may give fewer tokens than were asked for, by the kind of tokenizer.
FEWER = {"bpe": "no other pair occurs twice", "unigram": "it has no other pieces"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt train. Most have no default here: a resumed run keeps its own."""
    small = ", ".join(presets.TRAINING)
    named = f"a named model: {small}; or of a published size, see numgpt info --help"
    flags.add(parser, "--preset", metavar="NAME", help=named, shown=presets.DEFAULT)
    flags.add(
        parser,
        "--init-from",
        metavar="MODEL",
        help=(
            f"begin with the weights, the shape and the tokenizer of a model: {flags.MODEL}; the learning"
            f" rate is {INIT_LR:g} unless --lr gives another"
        ),
        shown="random weights",
    )
    flags.add(parser, "--out", metavar="DIR", help="the run's folder", shown="runs/1, runs/2, …")
    flags.add(
        parser,
        "--resume",
        action="store_true",
        help=(
            "continue the run in --out, or the newest run under runs/; it keeps its settings. With --data and"
            " --out a run begins where there is none, so that a job which is started again can say the same"
        ),
    )
    flags.add(
        parser,
        "--dtype",
        choices=flags.DTYPES,
        help="precision of parameters and computation",
        shown="float32",
    )
    flags.add(
        parser,
        "--sample-tokens",
        type=flags.count,
        metavar="N",
        help="how many tokens of text to write at the end",
        default=TOKENS,
    )
    flags.add_time_limit(parser)
    several.add_flag(parser, PARALLEL)
    _add_text_flags(parser)
    _add_teacher(parser)
    config, training = presets.preset(presets.DEFAULT), presets.preset_training(presets.DEFAULT)
    flags.add_fields(parser, config, presets.DEFAULT, vocab_size="the tokenizer's")
    flags.add_fields(parser, training, presets.DEFAULT)
    flags.add_engine(parser)


def _add_text_flags(parser: argparse.ArgumentParser) -> None:
    """The arguments of prepare(): what is trained on, and how it becomes tokens."""
    text = parser.add_argument_group("text")
    flags.add_data(text, "numgpt:austen")
    flags.add(
        text,
        "--tokenizer",
        metavar="NAME",
        help=(
            "chars; bytes; bpe:2048 or bpe:2048:cl100k: byte pairs learned from the training text, with the"
            " size of the vocabulary and the pattern that cuts the text; unigram:2048: SentencePiece's model;"
            " or a tokenizer's file or folder, a checkpoint or a run"
        ),
        shown=TOKENIZER,
    )
    flags.add_special(text, "the text", default=None)
    flags.add(
        text,
        "--token-folder",
        metavar="DIR",
        help="keep the tokens of a large text here, where several runs can share them",
        shown="in the run's folder",
    )
    flags.add(
        text,
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of the text to hold out from training",
        shown="0.1",
    )
    flags.add(
        text,
        "--split",
        choices=SPLITS,
        help="what to hold out: blocks from all over the text, or its tail",
        shown="blocks",
    )
    flags.add(
        text,
        "--dedup",
        action=argparse.BooleanOptionalAction,
        help="drop paragraphs that repeat earlier ones",
        shown="yes",
    )


def _add_teacher(parser: argparse.ArgumentParser) -> None:
    """The flags of distillation."""
    group = parser.add_argument_group("teacher")
    flags.add(
        group,
        "--teacher",
        metavar="MODEL",
        help="learn from what this model predicts, too: a larger one, whose tokenizer is used",
        shown="none",
    )
    flags.add(
        group,
        "--teacher-share",
        type=float,
        metavar="X",
        help="weight of what the teacher predicts, below 1; the rest is that of the text",
        shown=beginnings.SHARE,
    )
    flags.add(
        group,
        "--teacher-temperature",
        type=float,
        metavar="X",
        help="above 1 the teacher's less likely tokens count more",
        shown=beginnings.TEMPERATURE,
    )


def run(args: argparse.Namespace) -> int:
    """Train; 1 where the loss is no longer finite, 130 where somebody stopped the run."""
    with runs.hold_folder(args) as out:
        begun = several.by_first(args, lambda: str(runs.is_begun(out, args))) == "True"
        if args.resume and not begun:
            say(f"numgpt: {out} holds no run to resume: a new one begins")
        trainer = resume(args, out) if begun else begin(args, out)
        if begun and trainer.updates >= trainer.training.steps:
            return report_complete(trainer, out)
        announce(trainer, out, begun, args)
        if not runs.trained(trainer, out, args.time_limit):
            return 1
        return report(trainer, out, args.sample_tokens)


def begin(args: argparse.Namespace, out: Path) -> Trainer:
    """A new run: the corpus, the model that fits its vocabulary, and a folder."""
    from ..data.corpus import prepare
    from ..training import mixed
    from ..training.trainer import Trainer

    names = [name for name in (args.tokenizer, args.init_from, args.teacher) if name]
    expect_apart([*(args.data or ()), *names], [out / name for name in runs.MAY_BE_THERE])
    given = flags.fields(args, Training)
    preset = args.preset or presets.DEFAULT
    training = presets.preset_training(preset, **({"lr": INIT_LR} if args.init_from else {}) | given)
    training = several.cut(training, args)
    mixed.expect(training, args.dtype or "float32")
    first = None if args.init_from is None else beginnings.first_model(args, training.seed)
    teacher = beginnings.teacher(args)
    tokenizer = beginnings.tokenizer(args, first, teacher) or args.tokenizer or TOKENIZER
    corpus = prepare(tokenizer=tokenizer, **{"folder": out / "tokens"} | _recipe(args))
    model = beginnings.drawn(args, training.seed, corpus.tokenizer, teacher) if first is None else first
    _keep_token_folder(corpus, args)
    if args.init_from:
        corpus.recipe["init_from"] = beginnings.place_of(args.init_from)
    objective = None
    if teacher is not None:
        objective = beginnings.distillation(teacher, corpus, training, model)
    return Trainer(model, corpus, training, out, objective, distribution=several.distribution(args))


def resume(args: argparse.Namespace, out: Path) -> Trainer:
    """The run in a folder, at its last checkpoint; flags may change its training, not its model."""
    from ..interchange.checkpoint import read_state
    from ..model.gpt import GPT
    from ..training.trainer import Trainer

    model = GPT.load(out / "last")
    state = read_state(out / "last")
    if "tune" in state["recipe"]:
        command = runs.resuming(out, state["recipe"])
        raise InputError(f"{out}: was tuned on examples, expected a run of numgpt train: go on by {command}")
    if "objective" in state and "teacher" not in state["recipe"]:
        raise InputError(
            f"{out}: trains by the objective {state['objective']}, expected a run of pre-training: go on with"
            " it from Python, by Trainer.resume()"
        )
    begun_with = state["recipe"]
    _expect_same_model(out, model, args)
    _expect_same_tokenizer(out, model, args, begun_with.get("tokenizer"))
    beginnings.expect_same(out, args, begun_with)
    training = from_dict(Training, state["training"] | flags.fields(args, Training))
    corpus = runs.corpus({"folder": out / "tokens"} | begun_with | _recipe(args), model)
    # This corpus was made with the model's own tokenizer; the next --resume needs the names of the beginning.
    for name in ("tokenizer", "folder", "init_from"):
        if isinstance(begun_with.get(name), str):
            corpus.recipe[name] = begun_with[name]
    _keep_token_folder(corpus, args)
    objective = None
    if "teacher" in begun_with:
        teacher = beginnings.teacher_again(begun_with["teacher"])
        objective = beginnings.distillation(teacher, corpus, training, model)
    trainer = Trainer(model, corpus, training, out, objective, distribution=several.distribution(args))
    trainer.resume()
    return trainer


def _recipe(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of prepare() that flags gave."""
    recipe = {
        "paths": args.data,
        "held_out": args.held_out,
        "split": args.split,
        "dedup": args.dedup,
        "special": args.special,
        "folder": args.token_folder,
    }
    return {name: value for name, value in recipe.items() if value is not None}


def _keep_token_folder(corpus: Corpus, args: argparse.Namespace) -> None:
    """Note --token-folder in the run's state, so that --resume looks there too."""
    if args.token_folder:
        corpus.recipe["folder"] = str(Path(args.token_folder).resolve())


def _expect_same_model(out: Path, model: GPT, args: argparse.Namespace) -> None:
    """Raise InputError where a flag asks a resumed run for another model."""
    wanted = flags.fields(args, Config)
    if args.preset:
        preset = vars(presets.preset(args.preset)) | {"vocab_size": model.config.vocab_size}
        wanted = preset | wanted
    if hasattr(args, "seed"):
        wanted["seed"] = args.seed
    for name, value in wanted.items():
        actual = model.seed if name == "seed" else getattr(model.config, name)
        if actual != value:
            raise InputError(
                f"{out}: the run's model has {name} {actual}, expected {value} by the flags: leave them out,"
                " or choose another --out"
            )
    if args.dtype and args.dtype != model.params.dtype.name:
        raise InputError(
            f"{out}: the run's model is {model.params.dtype}, expected {args.dtype} by --dtype: leave it out,"
            " or choose another --out"
        )


def _expect_same_tokenizer(out: Path, model: GPT, args: argparse.Namespace, begun_with: str | None) -> None:
    """Raise InputError where --tokenizer asks a resumed run for another than it was begun with."""
    from ..tokenizers import expect_named

    if model.tokenizer is None:
        raise InputError(f"{out}: the run's tokenizer.json is missing, expected a whole checkpoint")
    if args.tokenizer is not None and args.tokenizer != begun_with:
        expect_named(args.tokenizer, model.tokenizer, f"{out}: the run's")


def announce(trainer: Trainer, out: Path, resumed: bool, args: argparse.Namespace) -> None:
    """Say what is about to be trained, on what, and where."""
    corpus, model = trainer.corpus, trainer.model
    assert corpus is not None, "begin and resume give one"
    repeats = f", {plural(corpus.repeats, 'repeated paragraph')} left out" if corpus.repeats else ""
    say(
        f"text    {corpus.source}: {len(corpus.train):,} tokens to train on, {len(corpus.held_out):,} held"
        f" out{repeats}, vocabulary {corpus.tokenizer.vocab_size}"
    )
    _say_if_smaller(corpus)
    teacher = getattr(trainer.objective, "recipe", {}).get("teacher")
    if teacher:
        share, temperature = teacher["share"], teacher["temperature"]
        say(f"teacher {teacher['model']}: share {share:g} of the loss, temperature {temperature:g}")
    ranks = several.described(trainer, args)
    if ranks:
        say(ranks)
    at = f", resumed at step {trainer.updates}" if resumed else ""
    say(
        f"model   {model.n_params:,} parameters, {runs.numbers(trainer)}, seed {trainer.training.seed};"
        f" run in {out}{at}"
    )


def _say_if_smaller(corpus: Corpus) -> None:
    """Say it on a line of its own where the vocabulary is smaller than what was asked for."""
    name = corpus.recipe.get("tokenizer", "")
    kind, _, rest = name.partition(":")
    asked, size = rest.partition(":")[0], corpus.tokenizer.vocab_size
    if kind not in FEWER or not asked.isdigit() or int(asked) <= size:
        return
    say(f"numgpt: {name} asks for {int(asked):,} tokens, the text gives only {size:,}: {FEWER[kind]}")


def report_complete(trainer: Trainer, out: Path) -> int:
    """Say that a run which was to go on had come to its end."""
    longer = command_line("train", "--resume", "--out", out, "--steps", 2 * max(trainer.updates, 1))
    say(
        f"{out}: was complete: step {trainer.updates} of {trainer.training.steps}, {runs.held_out(trainer)}\n"
        f"train on with: {longer}; text with: {command_line('sample', out)}"
    )
    return 0


def report(trainer: Trainer, out: Path, sample_tokens: int) -> int:
    """Say how the run ended and how to go on, and write some text with the model."""
    from ..model.gpt import GPT

    status = runs.say_stopped(trainer, command_line("train", "--resume", "--out", out))
    if status is not None or not trainer.distribution.is_first:
        return status or 0
    if sample_tokens:
        say(f"\nsample of {sample_tokens} tokens at temperature {TEMPERATURE}, top-p {TOP_P}:")
        model = GPT.load(out)
        prompt = default_prompt(model.tokenizer)
        try:
            sampling: dict[str, Any] = {
                "temperature": TEMPERATURE,
                "top_p": TOP_P,
                "seed": trainer.training.seed,
            }
            print_texts(model, prompt, sample_tokens, **sampling)
        except BrokenPipeError:  # nobody reads the sample, and the run is saved
            send_nowhere(sys.stdout)
    say(f"\n{runs.held_out(trainer)}")
    _say_load(trainer)
    again = command_line("sample", out)
    say(f"checkpoint: {out / 'last'} (and {out / 'best'}); more text with: {again}")
    return 0


def _say_load(trainer: Trainer) -> None:
    """Of a mixture of experts, what share of the held-out tokens each expert computed."""
    from ..evaluation import experts

    assert trainer.corpus is not None, "begin and resume give one"
    text, T = trainer.corpus.held_out, trainer.model.config.block_size
    rows = min(len(text) // T, 32)
    loads = experts.expert_load(trainer.model, text[: rows * T].reshape(rows, T))
    if loads:
        say("share of the held-out tokens by expert:\n" + "\n".join(experts.table(loads)))
