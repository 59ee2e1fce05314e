"""Tasks from files: questions a row, in the shapes that benchmarks have, and lm-eval's settings in JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arguments import checked
from ..data.rows import Row, rows_of, shown
from ..errors import InputError, did_you_mean
from ..storage.atomic import StrPath
from ..storage.files import read_json
from .questions import TASKS, Question, Suite

EXPECTED = "questions as JSON, an object a line"
# What fields are called in the files that there are, the first that a row has.
PROMPTS = ("query", "question", "prompt", "ctx", "context", "input")
CHOICES = ("choices", "endings", "options")
GOLDS = ("gold", "answer", "label", "answerKey", "answer_idx", "target")
ANSWERS = ("answer", "answers", "target", "completion", "output")
TEXTS = ("text", "page")
PAIR = ("sentence_good", "sentence_bad")
FIELD = re.compile(r"\{\{\s*(\w+)\s*\}\}")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MARK = "####"  # behind which GSM8K's answers have the number

# lm-eval's name → ours, of the settings that are texts.
SETTINGS = {
    "description": "description",
    "target_delimiter": "delimiter",
    "fewshot_delimiter": "separator",
}
OF_LM_EVAL = {
    *("task", "dataset_path", "dataset_kwargs", "test_split", "fewshot_split", "output_type", "num_fewshot"),
    *("doc_to_text", "doc_to_choice", "doc_to_target", "generation_kwargs", "fewshot_config", "metric_list"),
    *("metadata", "tag", "dataset_name", "validation_split", "training_split"),
    *SETTINGS,
}


@checked
def read_suite(
    path: StrPath, *, template: str | None = None, examples: StrPath | None = None, limit: int | None = None
) -> Suite:
    r"""The questions of a file: an object a line or an array of them, or a task of lm-eval written in JSON.

        {"query": "…", "choices": ["…", "…"], "gold": 0}          the right one's place, text or letter
        {"question": "…", "choices": {"text": […], "label": […]}, "answerKey": "B"}       ARC's
        {"ctx": "…", "endings": ["…", "…"], "label": "3"}         HellaSwag's
        {"sentence_good": "…", "sentence_bad": "…"}                BLiMP's
        {"question": "…", "answer": "…"}                           to be written; GSM8K's behind ####
        {"text": "…"}                                              to be predicted

    A field "group" tells kinds of questions apart. A task of lm-eval is an object with dataset_path "json"
    and dataset_kwargs {"data_files": {"test": "rows.jsonl"}}, whose doc_to_text, doc_to_choice and
    doc_to_target are names of fields, or texts with {{name}} in them; lm-eval reads the same file.

    Parameters
    ----------
    path
        The file.
    template
        The prompt of a question, with {{name}} for what its row has: "Question: {{question}}\nAnswer:".
    examples
        A file of questions that may stand before others, with their answers: those of path unless given.
    limit
        How many questions are asked at most: the first ones.

    Raises
    ------
    InputError
        Names file and line of a row without prompt or answer, or with an answer that is no choice.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "sums.jsonl")
    ...     _ = path.write_text('{"question": "2+2=", "choices": ["4", "5"], "answer": "A"}\n')
    ...     suite = read_suite(path)
    >>> suite.questions
    (Question(prompt='2+2=', choices=('4', '5'), gold=0, answers=(), group=''),)
    """
    if limit is not None and limit < 1:
        raise InputError(f"read_suite: limit is {limit}, expected 1 or more")
    task = _task(path)
    if task is None:
        shape = {} if template is None else {"doc_to_text": template}
        settings: dict[str, Any] = {"name": Path(path).stem}
        rows, others = path, examples
    else:
        shape, settings = _shape(path, task, template)
        rows, others = _files(path, task, examples)
    questions = _questions(rows, shape)[:limit]
    pool = _questions(others, shape) if others is not None else ()
    if task is None and not any(question.prompt for question in questions):
        settings["delimiter"] = ""  # which nothing stands before
    return Suite(questions=questions, examples=pool, **settings)


def _questions(path: StrPath, shape: Mapping[str, Any]) -> list[Question]:
    questions = [_question(row, shape) for row in rows_of(path, EXPECTED)]
    if not questions:
        raise InputError(f"{path}: holds no rows, expected {EXPECTED}")
    return questions


# A row.


def _question(row: Row, shape: Mapping[str, Any]) -> Question:
    place, fields = row
    group = fields.get("group", "")
    if not isinstance(group, str):
        raise InputError(f"{place}: group is {shown(group)}, expected a text")
    if all(name in fields for name in PAIR) and not shape:
        return Question(choices=[_text(row, name) for name in PAIR], group=group, place=place)
    choices = _choices(row, shape)
    if choices is None and not shape and not any(name in fields for name in PROMPTS):
        name = _name(row, TEXTS, "query and choices, question and answer, or text")
        return Question(_text(row, name), group=group, place=place)
    prompt = _prompt(row, shape, may_be_empty=choices is not None)
    if choices is None:
        return Question(prompt, answers=_answers(row, shape), group=group, place=place)
    texts, labels = choices
    return Question(prompt, texts, _gold(row, shape, texts, labels), group=group, place=place)


def _name(row: Row, names: Sequence[str], expected: str) -> str:
    """The first of some names that a row has."""
    name = next((name for name in names if name in row.fields), None)
    if name is None:
        there = ", ".join(map(repr, list(row.fields)[:8])) or "none"
        raise InputError(f"{row.place}: has the fields {there}, expected {expected}")
    return name


def _text(row: Row, name: str) -> str:
    value = row.fields[name]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{row.place}: {name} is {shown(value)}, expected a text that is not empty")
    return value


def _prompt(row: Row, shape: Mapping[str, Any], may_be_empty: bool) -> str:
    if "doc_to_text" in shape:
        return str(_rendered(row, shape["doc_to_text"]))
    name = _name(row, PROMPTS, f"a prompt: one of {', '.join(PROMPTS)}")
    return "" if may_be_empty and row.fields[name] == "" else _text(row, name)


def _choices(row: Row, shape: Mapping[str, Any]) -> tuple[list[str], list[str]] | None:
    """(texts, what the row calls them) of the choices; None where there are none."""
    if "doc_to_choice" in shape:
        name, given = "doc_to_choice", _rendered(row, shape["doc_to_choice"])
    else:
        found = next((name for name in CHOICES if name in row.fields), None)
        if found is None:
            return None
        name, given = found, row.fields[found]
    labels = given.get("label", []) if isinstance(given, dict) else []
    texts = given.get("text") if isinstance(given, dict) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{row.place}: {name} is {shown(given)}, expected a list of texts")
    return texts, [str(label) for label in labels]


def _gold(row: Row, shape: Mapping[str, Any], texts: list[str], labels: list[str]) -> int:
    """The place of the right choice, which a row may give as such, by its text, its label or its letter."""
    if "doc_to_target" in shape:
        name, value = "doc_to_target", _rendered(row, shape["doc_to_target"])
    else:
        name = _name(row, GOLDS, f"the right choice: one of {', '.join(GOLDS)}")
        value = row.fields[name]
    place = -1
    if isinstance(value, int) and not isinstance(value, bool):
        place = value
    elif isinstance(value, str):
        letters = list(LETTERS[: len(texts)])
        numbers = [str(n) for n in range(len(texts))]
        known = next((names for names in (texts, labels, letters, numbers) if value in names), [])
        place = known.index(value) if known else -1
    if not 0 <= place < len(texts):
        raise InputError(
            f"{row.place}: {name} is {shown(value)}, expected the right choice: its place from 0 to"
            f" {len(texts) - 1}, its text or its letter"
        )
    return place


def _answers(row: Row, shape: Mapping[str, Any]) -> list[str]:
    """What may be written; the number alone behind the mark of GSM8K."""
    if "doc_to_target" in shape:
        name, value = "doc_to_target", _rendered(row, shape["doc_to_target"])
    else:
        name = _name(row, ANSWERS, f"choices, or an answer: one of {', '.join(ANSWERS)}")
        value = row.fields[name]
    values = value if isinstance(value, list) else [value]
    is_plain = all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values)
    texts = [str(v).rpartition(MARK)[2].strip() for v in values] if is_plain else []
    if not texts or not all(texts):
        raise InputError(
            f"{row.place}: {name} is {shown(value)}, expected a text that is not empty, or several"
        )
    return texts


def _rendered(row: Row, template: Any) -> Any:
    """What a template gives: a field by its name, or a text with {{name}} in it; a list as it is."""
    if isinstance(template, list):
        return template
    if not isinstance(template, str):
        raise InputError(f"{row.place}: the template is {shown(template)}, expected a text")
    if template in row.fields:
        return row.fields[template]
    whole = FIELD.fullmatch(template)
    if whole:
        return _value(row, whole[1])
    text = FIELD.sub(lambda match: str(_value(row, match[1])), template)
    left = FIELD.sub("", template)
    if "{{" in left or "{%" in left:
        raise InputError(
            f"{row.place}: the template {shown(template)} is one of Jinja's, expected {{{{name}}}} of fields"
            " alone: put what it computes into the rows"
        )
    return text


def _value(row: Row, name: str) -> Any:
    if name not in row.fields:
        names = ", ".join(map(repr, list(row.fields)[:8])) or "none"
        raise InputError(
            f"{row.place}: has the fields {names}, expected {name!r}, which the template names"
            f"{did_you_mean(name, row.fields)}"
        )
    return row.fields[name]


# A task of lm-eval.


def _task(path: StrPath) -> dict[str, Any] | None:
    """The settings of lm-eval that a file holds; None where it holds questions."""
    if os.path.splitext(path)[1].lower() not in TASKS:
        return None
    try:
        task = read_json(path)
    except InputError:
        return None  # rows say what is wrong with them
    return task if isinstance(task, dict) and "dataset_path" in task else None


def _shape(
    path: StrPath, task: Mapping[str, Any], template: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what is made of a row, what a Suite is given) by a task of lm-eval."""
    unknown = next((name for name in task if name not in OF_LM_EVAL), None)
    if unknown is not None:
        raise InputError(
            f"{path}: has the setting {unknown!r}, which numgpt does not follow, expected some of"
            f" {', '.join(sorted(OF_LM_EVAL))}{did_you_mean(unknown, OF_LM_EVAL)}"
        )
    names = ("doc_to_text", "doc_to_choice", "doc_to_target")
    shape = {name: task[name] for name in names if name in task}
    if template is not None:
        shape["doc_to_text"] = template
    settings: dict[str, Any] = {"name": task.get("task", Path(path).stem)}
    settings |= {ours: task[theirs] for theirs, ours in SETTINGS.items() if theirs in task}
    shots = task.get("num_fewshot")
    settings["shots"] = 0 if shots is None else shots
    settings |= _generation(path, task.get("generation_kwargs", {}))
    if task.get("output_type") == "loglikelihood_rolling":
        shape = {}
    return shape, settings


def _generation(path: StrPath, given: Any) -> dict[str, Any]:
    """What a Suite is told of how answers are written; InputError for what numgpt's own flags say."""
    known = given if isinstance(given, dict) else {"generation_kwargs": given}
    plain = {"do_sample": False, "temperature": 0}
    for name, value in known.items():
        if name not in ("until", "max_gen_toks") and plain.get(name, True) != value:
            raise InputError(
                f"{path}: generation_kwargs has {name} {shown(value)}, expected until and max_gen_toks alone:"
                " give --samples and --temperature to numgpt eval"
            )
    settings = {}
    if known.get("until") is not None:
        until = known["until"]
        settings["stop"] = [until] if isinstance(until, str) else until
    if "max_gen_toks" in known:
        settings["max_new_tokens"] = known["max_gen_toks"]
    return settings


def _files(path: StrPath, task: Mapping[str, Any], examples: StrPath | None) -> tuple[Path, StrPath | None]:
    """The files of questions and of examples, beside the task's own."""
    files = task.get("dataset_kwargs", {}).get("data_files") if task["dataset_path"] == "json" else None
    if isinstance(files, str):
        files = {"test": files}
    split = task.get("test_split", "test")
    if not isinstance(files, dict) or not isinstance(files.get(split), str):
        raise InputError(
            f"{path}: dataset_path is {shown(task['dataset_path'])}, expected 'json' with dataset_kwargs"
            f' {{"data_files": {{"{split}": "rows.jsonl"}}}}: numgpt downloads no data sets'
        )
    folder = Path(path).parent
    others = files.get(task.get("fewshot_split", ""))
    if examples is None and isinstance(others, str):
        examples = folder / others
    return folder / files[split], examples
