"""numgpt learn: exercises in gradients, and a checker that says what is missing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InputError
from . import flags
from .printing import command_line, say

if TYPE_CHECKING:
    from ..learn.running import Checked, Started

HELP = "Learn backpropagation: exercises in gradients, and a checker that says what is missing."
EXAMPLE = "numgpt learn start layernorm"

FOLDER = "work"
NO_SANDBOX = (
    "your code runs in a process of its own, with a limit of time; that is no sandbox: it may do what you may"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The actions of numgpt learn, each with its own flags."""
    parser.set_defaults(print_help=parser.print_help, engine=None, threads=None, tf32=False)
    parsers = parser.add_subparsers(
        title="actions",
        dest="action",
        parser_class=flags.Parser,
        metavar="ACTION",
        help="numgpt learn ACTION --help lists its flags, with an example",
    )
    for name, action in ACTIONS.items():
        command = parsers.add_parser(name, help=action.help)
        command.set_defaults(parser=command)
        action.add_flags(command)
        flags.describe(command, action.help, " ".join(f"numgpt learn {name} {action.example}".split()))


def run(args: argparse.Namespace) -> int:
    """Run the action, or print the help where there is none."""
    if args.action is None:
        args.print_help()
        return 0
    return ACTIONS[args.action].run(args)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, "--dir", metavar="FOLDER", help="the folder of your exercises", default=FOLDER)


def _add_exercise(parser: argparse.ArgumentParser) -> None:
    """The exercise that an action is about, and where it lies."""
    flags.add(
        parser, "exercise", metavar="EXERCISE", help="its name, or the file in which you write your solution"
    )
    _add_folder(parser)


def _add_student(parser: argparse.ArgumentParser) -> None:
    flags.add(
        parser,
        "--student",
        metavar="NAME",
        help="whose variant: other names and constants, always the same for a student",
        shown="the plain exercise",
    )


def _found(args: argparse.Namespace) -> Started:
    """The started exercise that is named, by its file or by its name."""
    from ..learn.running import Started, started

    path = Path(args.exercise)
    if path.suffix == ".py" or path.exists():
        return started(path)
    path = Path(args.dir) / f"{args.exercise}.py"
    return started(path) if path.exists() else Started(path, args.exercise, "")


def _list(args: argparse.Namespace) -> int:
    """Print the exercises in their order, with how far those of the folder are."""
    from ..learn import progress
    from ..learn.exercises import NAMES
    from ..learn.variation import title

    known = progress.read(args.dir)
    width = max(map(len, NAMES))
    for name, number in NAMES.items():
        words = f"  [{known[name].words}]" if name in known else ""
        print(f"{number:>3}  {name:{width}}  {title(name)}{words}")
    print(f"\nbegin with {command_line('learn', 'start', next(iter(NAMES)))}")
    return 0


def _add_start_flags(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, "exercises", nargs="+", metavar="EXERCISE", help="names of exercises, or all")
    _add_folder(parser)
    _add_student(parser)
    flags.add(parser, "--over", action="store_true", help="write over files that are there")


def _start(args: argparse.Namespace) -> int:
    """Write the files to fill."""
    from ..learn import starting
    from ..learn.exercises import NAMES

    names = list(NAMES) if args.exercises == ["all"] else args.exercises
    for name in names:
        path = starting.write(name, args.dir, args.student or "", args.over)
        print(f"{path}: read it, fill in its last function, then {command_line('learn', 'check', path)}")
    return 0


def _add_check_flags(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, "files", nargs="+", metavar="FILE", help="started exercises, or their names")
    _add_folder(parser)
    _add_limit(parser)
    flags.add(parser, "--json", metavar="FILE", help="write the reports too, as JSON; - prints them instead")


def _add_limit(parser: argparse.ArgumentParser) -> None:
    flags.add(
        parser,
        "--limit",
        type=flags.positive,
        metavar="SECONDS",
        help=f"how long the code of a file may run ({NO_SANDBOX})",
        default=20,
    )


def _check(args: argparse.Namespace) -> int:
    """Judge files, and print what was found; 1 where one is not right."""
    from ..learn import grading, running

    reports, right = [], True
    for name in args.files:
        args.exercise = name
        file = running.checked(_found(args).path, args.limit)
        right &= file.report["right"]
        reports.append({"file": str(file.started.path), **file.report})
        if args.json != "-":
            _print(file)
        _note(file)
    if args.json:
        grading.write_json(args.json, reports)
    return 0 if right else 1


def _print(file: Checked) -> None:
    """What a student reads after a check."""
    if file.printed.strip():
        print(f"your code printed:\n{file.printed.rstrip()}\n")
    print(file.text)
    following = _following(file.started)
    if not file.report["right"]:
        print(f"  Next: {command_line('learn', 'hint', file.started.path)}")
    elif following:
        print(f"  Next: {command_line('learn', 'start', following)}")


def _following(file: Started) -> str:
    """The name of the exercise after this one; "" after the last."""
    from ..learn.exercises import NAMES

    names = list(NAMES)
    return ([*names, ""])[names.index(file.exercise) + 1]


def _note(file: Checked) -> None:
    """Write down how far a student is; a folder that cannot be written keeps nobody from checking."""
    from ..learn import progress

    folder = file.started.path.parent
    try:
        progress.checked(folder, file.started.exercise, file.report["right"], tuple(file.report["codes"]))
    except (InputError, OSError) as error:
        say(f"numgpt: the progress was not saved: {error}")


def _add_hint_flags(parser: argparse.ArgumentParser) -> None:
    _add_exercise(parser)
    flags.add(
        parser,
        "--level",
        type=int,
        choices=(1, 2, 3),
        help="1 a question, 2 the term, 3 the line",
        shown="one more each time",
    )


def _hint(args: argparse.Namespace) -> int:
    """Print the next hint for what the last check found."""
    from ..learn import hints, progress
    from ..learn.variation import exercise

    file = _found(args)
    wanted = exercise(file.exercise, file.student)
    folder = file.path.parent
    known = progress.read(folder).get(file.exercise, progress.Progress())
    level = args.level or min(known.hints + 1, len(hints.LEVELS))
    print(hints.hint(wanted, known.codes, level))
    if file.path.exists():
        progress.update(folder, file.exercise, hints=max(level, known.hints))
    return 0


def _solution(args: argparse.Namespace) -> int:
    """Print the solution, and note that it was seen."""
    from ..learn import progress, starting
    from ..learn.variation import exercise

    file = _found(args)
    print(starting.page(exercise(file.exercise, file.student), stub=False), end="")
    if file.path.exists():
        progress.update(file.path.parent, file.exercise, solution=True)
    return 0


def _add_key_flags(parser: argparse.ArgumentParser) -> None:
    flags.add(
        parser, "exercises", nargs="*", metavar="EXERCISE", help="names of exercises", shown="all of them"
    )
    _add_student(parser)


def _key(args: argparse.Namespace) -> int:
    """Print all solutions, for a teacher."""
    from ..learn import starting
    from ..learn.exercises import NAMES
    from ..learn.variation import exercise

    for name in args.exercises or NAMES:
        print(starting.page(exercise(name, args.student or ""), stub=False))
    return 0


def _progress(args: argparse.Namespace) -> int:
    """Print how far the exercises of a folder are."""
    from ..learn import progress
    from ..learn.exercises import NAMES

    known = progress.read(args.dir)
    if not known:
        raise InputError(
            f"{args.dir}: has no {progress.FILE}, expected a folder of exercises that were checked"
        )
    for name, one in known.items():
        print(f"{NAMES[name]:>3}  {name}: {one.words}")
    print(f"{sum(one.right for one in known.values())} of {len(NAMES)} are right")
    return 0


def _add_fault_flags(parser: argparse.ArgumentParser) -> None:
    flags.add(
        parser, "exercises", nargs="*", metavar="EXERCISE", help="names of exercises", shown="all of them"
    )
    _add_student(parser)


def _faults(args: argparse.Namespace) -> int:
    """Plant every known fault, and print how many the checker calls by their names; 1 where one passes."""
    from ..learn import faults

    text, holds = faults.table(args.exercises, args.student or "")
    print(text)
    return 0 if holds else 1


def _add_grade_flags(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, "folder", metavar="FOLDER", help="a folder of started exercises, or of such folders")
    flags.add(
        parser,
        "--expect",
        nargs="+",
        metavar="EXERCISE",
        help="exercises that must be there; all for every one. One that is not has no points",
    )
    _add_limit(parser)
    flags.add(parser, "--json", metavar="FILE", help="write the grades as JSON; - prints them instead")
    flags.add(parser, "--junit", metavar="FILE", help="write them as JUnit's XML, which CI services read")
    flags.add(parser, "--gradescope", metavar="FILE", help="write them as Gradescope's results.json")


def _grade(args: argparse.Namespace) -> int:
    """Grade every exercise of a folder, each with several scores; none stops the rest."""
    from ..learn import grading
    from ..learn.exercises import NAMES
    from ..learn.variation import module_of
    from ..storage.atomic import write_file

    expected = list(NAMES) if args.expect == ["all"] else args.expect or []
    for name in expected:
        module_of(name)  # a name that is none is said before the work
    graded = []
    for one in grading.grade(args.folder, expected, args.limit):
        graded.append(one)
        if args.json != "-":
            print(grading.line(one), flush=True)
    if not graded:
        raise InputError(f"{args.folder}: has no started exercises, expected some: see numgpt learn start")
    if args.json != "-":
        print(f"{sum(g.score for g in graded):g} of {sum(g.max_score for g in graded):g} points")
    if args.json:
        grading.write_json(args.json, grading.as_dict(graded))
    if args.junit:
        write_file(args.junit, grading.as_junit(graded))
    if args.gradescope:
        grading.write_json(args.gradescope, grading.as_gradescope(graded))
    return 0


class Action(NamedTuple):
    """An action: a sentence, a line to try, its flags and what it does."""

    help: str
    example: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


ACTIONS = {
    "list": Action("List the exercises in their order.", "", _add_folder, _list),
    "start": Action(
        "Write an exercise's file, with one function to fill.", "layernorm", _add_start_flags, _start
    ),
    "check": Action(
        "Say what is wrong with a started exercise, and why.", "work/layernorm.py", _add_check_flags, _check
    ),
    "hint": Action("Give the next hint for what the last check found.", "layernorm", _add_hint_flags, _hint),
    "solution": Action("Print the solution of an exercise.", "layernorm", _add_exercise, _solution),
    "progress": Action("Show how far the exercises of a folder are.", "--dir work", _add_folder, _progress),
    "grade": Action(
        "Grade a folder of exercises, for a teacher.",
        "submissions --gradescope results.json",
        _add_grade_flags,
        _grade,
    ),
    "key": Action("Print all solutions, for a teacher.", "--student ada", _add_key_flags, _key),
    "faults": Action(
        "Check the checker: plant known faults, and count which it names.",
        "layernorm",
        _add_fault_flags,
        _faults,
    ),
}
