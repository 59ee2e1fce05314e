"""numgpt eval on tasks: questions from files and generated suites, WikiText, LAMBADA, loss by position."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from . import flags, runs
from .places import expect_apart
from .printing import say

if TYPE_CHECKING:
    from ..evaluation import Positions, Result, Suite
    from ..model.gpt import GPT

OF_TASKS = (
    "shots",
    "seed",
    "template",
    "examples",
    "samples",
    "temperature",
    "max_new_tokens",
    "random_labels",
)
# What is asked → the flags that change it, beside --batch-size.
FLAGS = {
    "task": (*OF_TASKS, "limit", "against", "out", "plot", "data"),
    "by_position": ("limit", "against", "plot", "data", "special"),
    "wikitext": ("limit", "stride"),
    "lambada": ("limit",),
}
NAMES = {"task": "--task", "by_position": "--by-position", "wikitext": "--wikitext", "lambada": "--lambada"}


def add_task_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of what is asked besides the loss of a text."""
    which = parser.add_argument_group(
        "tasks", "one of them; the loss of a text without"
    ).add_mutually_exclusive_group()
    flags.add(
        which,
        "--task",
        nargs="+",
        metavar="TASK",
        help=(
            "files of questions, an object a line, or tasks of lm-eval in JSON; or minimal-pairs, copy,"
            " reverse, sort, add, recall, labels, cloze, which are generated"
        ),
    )
    flags.add(which, "--by-position", action="store_true", help="the loss by how much was read before")
    flags.add(which, "--wikitext", metavar="FILE", help="perplexities of WikiText's raw file, two protocols")
    flags.add(which, "--lambada", metavar="FILE", help="the last words of LAMBADA's passages")
    _add_question_flags(parser)
    group = parser.add_argument_group("what is asked, compared and written")
    flags.add(
        group,
        "--limit",
        type=flags.positive,
        metavar="N",
        help="the first N questions, passages, windows, or tokens of WikiText",
        shown="all that there are; 200 that are generated, 256 windows",
    )
    flags.add(
        group,
        "--against",
        metavar="MODEL",
        help="another model, whose difference is told with its paired error",
    )
    flags.add(group, "-o", "--out", metavar="FILE", help="write each question with its answers, JSON lines")
    flags.add(group, "--plot", metavar="FILE", help="draw it: a name that ends in .png, .svg, .pdf or .html")


def _add_question_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("questions")
    flags.add(
        group,
        "--shots",
        type=flags.count,
        metavar="K",
        help="examples before each question",
        shown="the task's",
    )
    flags.add(
        group,
        "--seed",
        type=flags.count,
        metavar="N",
        help="draws examples, generated questions and sampled answers",
        shown="0",
    )
    flags.add(
        group,
        "--template",
        metavar="TEXT",
        help="the prompt, with {{name}} for a field and \\n for a new line",
    )
    flags.add(group, "--examples", metavar="FILE", help="where examples come from", shown="the task itself")
    flags.add(
        group,
        "--random-labels",
        action="store_true",
        help="ask also behind examples whose answers are drawn at random, and tell the difference",
    )
    flags.add(
        group, "--samples", type=flags.positive, metavar="N", help="written answers each: pass@k", shown=1
    )
    flags.add(
        group, "--temperature", type=float, metavar="X", help="of written answers; 0 is greedy", shown="0"
    )
    flags.add(
        group,
        "--max-new-tokens",
        type=flags.positive,
        metavar="N",
        help="the longest written answer",
        shown="room for the right one",
    )


def asked(args: argparse.Namespace) -> str | None:
    """What is asked besides the loss of a text; InputError for a flag that does not change it."""
    kind = next((name for name in FLAGS if getattr(args, name)), None)
    known = FLAGS[kind] if kind else ("data", "special", "stride")
    for flag in dict.fromkeys(flag for own in FLAGS.values() for flag in own):
        value = getattr(args, flag)
        if flag in known or value in (None, False) or value == args.parser.get_default(flag):
            continue
        needs = [NAMES[name] for name, own in FLAGS.items() if flag in own]
        also = f", not {NAMES[kind]}" if kind else ""
        raise InputError(f"eval: --{flag.replace('_', '-')} needs {' or '.join(needs)}{also}")
    return kind


def answer(args: argparse.Namespace, kind: str, held_out: Callable[[Any, GPT], tuple[str, Any]]) -> int:
    """Ask, print, draw. held_out: (description, ids) of what a run's own training held out."""
    from ..model.gpt import GPT

    place = runs.checkpoint(args)
    _expect_places(args, place)
    models = {str(place): GPT.load(place)}
    if args.against:
        name = args.against if args.against not in models else f"{args.against} again"
        models[name] = GPT.load(args.against)
    for name, model in models.items():
        if model.tokenizer is None:
            raise InputError(f"eval: {name} has no tokenizer, expected one to read texts")
    if kind == "task":
        return _tasks(args, models, lambda: held_out(place, models[str(place)]))
    if kind == "by_position":
        return _by_position(args, models, held_out)
    return _benchmark(args, kind, next(iter(models.values())))


def _expect_places(args: argparse.Namespace, place: Any) -> None:
    """Raise InputError, before anything is computed, for files that cannot be written or are read."""
    read = [place, *(args.task or ()), *filter(None, (args.against, args.examples)), *(args.data or ())]
    expect_apart(read, [args.out] if args.out else [])
    expect_apart(read, [args.plot] if args.plot else [], "--plot")
    if len(args.task or ()) > 1:
        for flag in ("out", "plot"):
            if getattr(args, flag):
                raise InputError(
                    f"eval: --{flag} is of one task, expected no other: leave out {args.task[1]}"
                )
    if args.plot:
        from ..plots import files, style

        files.suffix_of(Path(args.plot))
        style.matplotlib().use("Agg")


def _bar() -> Any:
    from tqdm import tqdm

    return tqdm(unit="row", disable=None, leave=False)


def _tasks(args: argparse.Namespace, models: Mapping[str, GPT], held_out: Callable[[], Any]) -> int:
    from .evaluate_reports import report

    for n, name in enumerate(args.task):
        suite, source = _suite(name, args, next(iter(models.values())), held_out)
        results = _results(args, models, suite)
        if n:
            print()
        print(report(suite, results, source), flush=True)
        if args.out:
            _write(args.out, results)
        if args.plot:
            from ..plots import scores

            _draw(args.plot, scores(results), f"{suite.name} of {', '.join(results)}")
    return 0


def _suite(name: str, args: argparse.Namespace, model: GPT, held_out: Callable[[], Any]) -> tuple[Suite, str]:
    """(the questions of a task, where they come from)."""
    from ..evaluation import read_suite
    from ..evaluation import suite as generated
    from ..evaluation.suites import CLOZE
    from ..evaluation.suites import NAMES as GENERATED

    of_file = {flag: getattr(args, flag) for flag in ("template", "examples")}
    if name in GENERATED and not Path(name).is_file():
        given = next((flag for flag, value in of_file.items() if value), None)
        if given:
            raise InputError(f"eval: --{given} is of questions in a file, expected none with {name}")
        text, source = None, f"generated from seed {args.seed or 0}"
        if name == CLOZE:
            text, of_text = _text(args, model, held_out)
            source = f"{source} and {of_text}"
        elif args.data:
            raise InputError(f"eval: --data needs --task {CLOZE} or --by-position, not --task {name}")
        return generated(name, args.limit, seed=args.seed or 0, text=text), source
    if args.data:
        raise InputError(f"eval: --data is the text of --task {CLOZE}, expected none with {name}")
    if not Path(name).exists():
        from ..errors import did_you_mean

        raise InputError(
            f"eval: {name} is no file and no suite, expected a file of questions, or {', '.join(GENERATED)}"
            f"{did_you_mean(name, GENERATED)}"
        )
    if args.template:
        of_file["template"] = args.template.replace("\\n", "\n")
    return read_suite(name, limit=args.limit, **of_file), f"from {name}"


def _text(args: argparse.Namespace, model: GPT, held_out: Callable[[], Any]) -> tuple[str, str]:
    """(text, what it is): that of --data, or what a run's training held out."""
    from ..data.text import Text

    if args.data:
        text = Text(args.data)
        return "".join(text.parts("reading")), text.source
    source, ids = held_out()
    return model.tokenizer.decode(ids), source  # type: ignore[union-attr]  # run() has looked


def _results(args: argparse.Namespace, models: Mapping[str, GPT], suite: Suite) -> dict[str, Result]:
    """Name → result: of each model; with random labels of one model, twice."""
    from ..evaluation import evaluate

    names = ("shots", "samples", "temperature", "max_new_tokens")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    options |= {"seed": args.seed or 0, "batch_size": args.batch_size}
    if args.random_labels and len(models) > 1:
        raise InputError(
            "eval: --random-labels compares two sorts of examples, expected no --against beside it"
        )
    if args.random_labels and not options.get("shots", suite.shots):
        raise InputError("eval: --random-labels needs --shots K, examples before each question")
    with _bar() as bar:
        found = {
            name: evaluate(model, suite, progress=bar.update, **options) for name, model in models.items()
        }
        if args.random_labels:
            (model,) = models.values()
            drawn = evaluate(model, suite, random_labels=True, progress=bar.update, **options)
            found = {"right labels": next(iter(found.values())), "random labels": drawn}
    return found


def _write(path: str, results: Mapping[str, Result]) -> None:
    """Each question with what each model answered, an object a line."""
    from ..storage import atomic

    lines = []
    (first, *_) = results.values()
    for n, question in enumerate(first.suite.questions):
        answers = {name: dict(result.details[n]) for name, result in results.items()}
        lines.append(json.dumps(question.row() | {"results": answers}, ensure_ascii=False))
    atomic.write_file(path, "".join(f"{line}\n" for line in lines).encode())
    say(f"answers: {path}")


def _draw(path: str, ax: Any, title: str) -> None:
    from ..plots import files

    files.save(ax, path, title=title)
    say(f"picture: {path}")


def _by_position(args: argparse.Namespace, models: Mapping[str, GPT], held_out: Callable[..., Any]) -> int:
    """Print and draw the loss by position."""
    from ..data.corpus import encode
    from ..evaluation import loss_by_position
    from .evaluate_reports import positions_report

    found: dict[str, Positions] = {}
    windows = {} if args.limit is None else {"windows": args.limit}
    source = ""
    with _bar() as bar:
        for name, model in models.items():
            if args.data:
                source, ids = encode(args.data, model.tokenizer, args.special)  # type: ignore[arg-type]
            else:
                source, ids = held_out(name, model)
            found[name] = loss_by_position(
                model, ids, batch_size=args.batch_size, progress=bar.update, **windows
            )
    print(positions_report(found, source))
    if args.plot:
        from ..plots import positions

        _draw(args.plot, positions(found), f"loss by position of {', '.join(found)}")
    return 0


def _benchmark(args: argparse.Namespace, kind: str, model: GPT) -> int:
    """Print what a model makes of WikiText or of LAMBADA."""
    from ..evaluation import lambada, wikitext
    from .evaluate_reports import lambada_report, wikitext_report

    options = {"batch_size": args.batch_size}
    lines: Iterator[str]
    with _bar() as bar:
        if kind == "wikitext":
            found = wikitext(
                model, args.wikitext, tokens=args.limit, stride=args.stride, progress=bar.update, **options
            )
            lines = wikitext_report(found, args.wikitext)
        else:
            words = lambada(model, args.lambada, passages=args.limit, progress=bar.update, **options)
            lines = lambada_report(words, args.lambada)
    print("\n".join(lines))
    return 0
