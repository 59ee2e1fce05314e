"""The table of subcommands: whoever adds one is told which place is missing; and what --help shows."""

import argparse
import dataclasses
import importlib
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import numgpt
from numgpt import commands
from numgpt.__main__ import main
from numgpt.commands.flags import MAY_BE_EMPTY
from numgpt.commands.learn import ACTIONS as LESSONS
from numgpt.commands.table import COMMANDS, parser
from numgpt.commands.tokenizer import ACTIONS
from numgpt.commands.tune import ACTIONS as TUNINGS
from numgpt.errors import InputError

FOLDER = Path(commands.__file__).parent
PARTS = {"HELP": str, "EXAMPLE": str, "add_flags": callable, "run": callable}
PAGES = [[], *([name] for name in COMMANDS), *(["tokenizer", name] for name in ACTIONS)]
PAGES += [["learn", name] for name in LESSONS]
PAGES += [["tune", name] for name in TUNINGS]


def files():
    """File → module, of everything in commands/."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    return {f"commands/{name}.py": importlib.import_module(f"numgpt.commands.{name}") for name in names}


def forgotten(files, table, actions):
    """What is missing where, of files with commands and of the table that lists them."""
    runs = [getattr(one, "run", None) for one in (*table.values(), *actions.values())]
    for file, module in files.items():
        if any(hasattr(module, part) for part in PARTS) and getattr(module, "run", None) not in runs:
            yield f"commands/table.py has no line for {file}"
    for name, module in table.items():
        file = next((file for file in files if files[file] is module), "?")
        for part in PARTS:
            if not hasattr(module, part):
                yield f"{file} has no {part}, which the table's {name} needs"


def flags_of(page):
    """The actions of argparse that a page of help lists."""
    here = parser()
    for name in page:
        (subparsers,) = [a for a in here._actions if isinstance(a, argparse._SubParsersAction)]
        here = subparsers.choices[name]
    return here._actions


def help_of(page, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([*page, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_nothing_is_forgotten():
    assert list(forgotten(files(), COMMANDS, ACTIONS)) == []


def test_what_is_forgotten_is_named():
    whole = SimpleNamespace(HELP="", EXAMPLE="", add_flags=print, run=lambda args: 0)
    part = SimpleNamespace(HELP="", add_flags=print, run=lambda args: 0)
    assert list(forgotten({"commands/fly.py": whole}, {}, {})) == [
        "commands/table.py has no line for commands/fly.py"
    ]
    assert list(forgotten({"commands/fly.py": part}, {"fly": part}, {})) == [
        "commands/fly.py has no EXAMPLE, which the table's fly needs"
    ]
    assert list(forgotten({"commands/fly.py": whole}, {"fly": whole}, {})) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_example_is_parsed_and_runs_it(name):
    words = shlex.split(COMMANDS[name].EXAMPLE)
    assert words[:2] == ["numgpt", name]
    args = parser().parse_args(words[1:])
    assert args.command == name
    assert args.run is COMMANDS[name].run


@pytest.mark.parametrize("name", ACTIONS)
def test_an_actions_example_is_parsed(name):
    args = parser().parse_args(["tokenizer", name, *shlex.split(ACTIONS[name].example)])
    assert args.action == name


@pytest.mark.parametrize("name", LESSONS)
def test_a_lessons_example_is_parsed(name):
    args = parser().parse_args(["learn", name, *shlex.split(LESSONS[name].example)])
    assert args.action == name


@pytest.mark.parametrize("name", TUNINGS)
def test_a_tunings_example_is_parsed(name):
    args = parser().parse_args(["tune", name, *shlex.split(TUNINGS[name].example)])
    assert args.action == name


@pytest.mark.parametrize("page", PAGES[1:], ids=" ".join)
def test_help_fits_its_columns_and_ends_with_an_example(page, capsys, monkeypatch):
    *lines, example = help_of(page, capsys, monkeypatch).splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert example.startswith(f"example: numgpt {' '.join(page)}")


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_every_flag_is_explained_and_says_its_default(page):
    for flag in flags_of(page):
        assert flag.help, flag.dest
        assert "unless given" not in flag.help, flag.dest
        if flag.default not in (None, False, argparse.SUPPRESS):
            assert f"(default: {flag.default})" in flag.help, flag.dest


def test_every_field_of_a_config_is_a_flag_of_train_with_its_presets_default():
    flags = {flag.dest: flag for flag in flags_of(["train"])}
    for settings in (numgpt.preset("gpt-micro"), numgpt.preset_training("gpt-micro")):
        for field in dataclasses.fields(settings):
            name, value = field.name, getattr(settings, field.name)
            if len(field.metadata["choices"] or "two") == 1:
                continue
            assert flags[name].option_strings[0] == "--" + name.replace("_", "-")
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            if value is not None and name != "vocab_size":
                assert flags[name].help.endswith(f"(default: {shown})")


def values(page):
    """[words before it, the flag or "", its action] of everything on a page that takes a value."""
    actions = flags_of(page)
    positional = [a for a in actions if not a.option_strings]
    for action in actions:
        takes_none = action.nargs == 0 or isinstance(action, argparse._SubParsersAction)
        if not takes_none and action.dest not in MAY_BE_EMPTY:
            before = ["1"] * positional.index(action) if action in positional else action.option_strings[:1]
            yield [*page, *before], action


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_an_empty_value_is_refused_for_every_flag_by_its_name(page):
    for before, action in values(page):
        name = "/".join(action.option_strings) or action.metavar
        with pytest.raises(InputError, match=f"argument {name}: is empty, expected .*a shell variable unset"):
            parser().parse_args([*before, ""])


def test_values_are_met_on_every_page():
    assert sum(len(list(values(page))) for page in PAGES) > 100
    (train,) = [action for before, action in values(["train"]) if before == ["train", "--out"]]
    assert train.dest == "out"


def misspelt(word):
    """A word with two of its letters changed places, and with one of them left out."""
    middle = len(word) // 2
    swapped = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return {swapped, word[:middle] + word[middle + 1 :]} - {word}


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_a_misspelt_flag_or_command_is_asked_about(page):
    actions = flags_of(page)
    known = {flag for a in actions for flag in a.option_strings}
    for flag in known:
        wrong = {w for w in misspelt(flag) | {flag.replace("-", "_").replace("__", "--", 1)} if len(flag) > 7}
        for word in (w for w in wrong if not any(k.startswith(w) for k in known)):
            with pytest.raises(InputError, match=rf"\(did you mean .*{flag}\b.*\?\)"):
                parser().parse_args([*page, word])
    for action in actions:
        for choice in action.choices or () if isinstance(action, argparse._SubParsersAction) else ():
            for word in misspelt(choice) - set(action.choices):
                with pytest.raises(InputError, match=rf"invalid choice: '{word}' \(did you mean .*{choice}"):
                    parser().parse_args([*page, word])


def test_what_nothing_resembles_is_listed_or_left():
    with pytest.raises(InputError, match="invalid choice: 'fly' .choose from "):
        parser().parse_args(["fly"])
    with pytest.raises(InputError, match=r"unrecognized arguments: --xyzzy; see numgpt train --help"):
        parser().parse_args(["train", "--xyzzy"])


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from numgpt.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numba", "safetensors", "tqdm", "regex", "torch", "scipy"}
    modules = done.stdout.splitlines()[-1].split()
    assert "numgpt.commands.train" in modules
    assert not [m for m in modules if m in heavy or m.endswith("_numba")]
