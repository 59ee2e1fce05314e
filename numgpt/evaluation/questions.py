"""What a task asks: questions, whose answers are chosen or written, and texts, which are to be predicted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..argument_kinds import held, kind_of
from ..arguments import checked
from ..errors import InputError
from ..random import generator
from ..storage import atomic
from ..storage.atomic import StrPath

TASKS = (".json", ".yaml", ".yml")  # endings of files with the settings of a task
CHOICE, ANSWER, TEXT = "choice", "answer", "text"
# Kind → lm-eval's name for it, and which field of a row is what.
OF_LM_EVAL: dict[str, tuple[str, dict[str, str]]] = {
    CHOICE: (
        "multiple_choice",
        {"doc_to_text": "{{query}}", "doc_to_choice": "choices", "doc_to_target": "gold"},
    ),
    ANSWER: ("generate_until", {"doc_to_text": "{{prompt}}", "doc_to_target": "{{completion}}"}),
    TEXT: ("loglikelihood_rolling", {"doc_to_text": "", "doc_to_target": "{{text}}"}),
}


@dataclass(frozen=True)
class Question:
    """One question of a Suite, or one text.

    prompt: what stands before the answer; of a text, the text. choices: the answers of which one is to be
    chosen. gold: the place of the right one in choices. answers: what may be written, any of it right.
    group: the kind of question, by which results are told apart, too. place: where it was read, for errors;
    questions are equal without it.

    Raises
    ------
    InputError
        For choices and answers at once, one choice alone, and a gold that is no place in choices.

    Examples
    --------
    >>> Question("2 + 2 =", ("4", "5"), gold=0).target
    '4'
    """

    prompt: str = ""
    choices: Sequence[str] = ()
    gold: int = 0
    answers: Sequence[str] = ()
    group: str = ""
    place: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        kinds = {"prompt": str, "choices": Sequence[str], "gold": int, "answers": Sequence[str]}
        for name, kind in (kinds | {"group": str, "place": str}).items():
            value = held("Question", name, kind_of(kind), getattr(self, name))
            object.__setattr__(self, name, tuple(value) if kind == Sequence[str] else value)
        where = self.place or "Question"
        if self.choices and self.answers:
            raise InputError(f"{where}: has choices and answers, expected one of them")
        if self.choices and (len(self.choices) < 2 or not all(self.choices)):
            empty = "" if all(self.choices) else ", one of them empty"
            raise InputError(
                f"{where}: has choices {list(self.choices)}{empty}, expected two or more that are not empty"
            )
        if self.choices and not 0 <= self.gold < len(self.choices):
            raise InputError(
                f"{where}: the right choice is {self.gold}, expected a place from 0 to"
                f" {len(self.choices) - 1}"
            )
        if not all(answer.strip() for answer in self.answers):
            raise InputError(f"{where}: has an empty answer, expected a text")
        if not (self.prompt or self.choices):
            raise InputError(f"{where}: has no prompt, expected a text that is not empty")

    @property
    def kind(self) -> str:
        """ "choice", "answer" or "text"."""
        if self.choices:
            return CHOICE
        return ANSWER if self.answers else TEXT

    @property
    def target(self) -> str:
        """The right answer, as an example shows it."""
        return self.choices[self.gold] if self.choices else self.answers[0]

    def row(self) -> dict[str, Any]:
        """What stands in a file of questions, without what is empty."""
        row: dict[str, Any]
        if self.kind == TEXT:
            return {"text": self.prompt}
        if self.kind == CHOICE:
            row = {"query": self.prompt, "choices": list(self.choices), "gold": self.gold}
        else:  # by the names that fine-tuning reads
            answer = self.answers[0] if len(self.answers) == 1 else list(self.answers)
            row = {"prompt": self.prompt, "completion": answer}
        return row | ({"group": self.group} if self.group else {})


@dataclass(frozen=True)
class Suite:
    """Questions of one kind, and how they are put.

    name: what tables call it. questions: those that are asked. examples: questions with their answers that
    may stand before one; () takes them from the questions themselves, never the one that is asked.
    description: stands before all. delimiter: between prompt and answer. separator: behind each example.
    stop: what a written answer ends before. shots: how many examples stand before a question where nobody
    says. max_new_tokens: of a written answer; 0 leaves room for the longest right one.

    Raises
    ------
    InputError
        Where there is no question, or there are some of different kinds.

    Examples
    --------
    >>> questions = [Question("1+1=", answers=["2"]), Question("1+2=", answers=["3"])]
    >>> suite = Suite("sums", questions, delimiter="")
    >>> suite.prompts(shots=1)
    ['1+2=3\\n\\n1+1=', '1+1=2\\n\\n1+2=']
    """

    name: str
    questions: Sequence[Question]
    examples: Sequence[Question] = ()
    description: str = ""
    delimiter: str = " "
    separator: str = "\n\n"
    stop: Sequence[str] = ("\n",)
    shots: int = 0
    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        of_questions: Any = Sequence[Question]
        kinds = {"questions": of_questions, "examples": of_questions, "stop": Sequence[str], "shots": int}
        kinds["max_new_tokens"] = int
        kinds |= dict.fromkeys(("name", "description", "delimiter", "separator"), str)
        for name, kind in kinds.items():
            value = held("Suite", name, kind_of(kind), getattr(self, name))
            is_text = isinstance(value, str | int)
            object.__setattr__(self, name, value if is_text else tuple(value))
        if not self.questions:
            raise InputError(f"{self.name}: has no questions, expected one or more")
        first = self.questions[0]
        for other in (*self.questions, *self.examples):
            if other.kind != first.kind:
                raise InputError(
                    f"{other.place or self.name}: is of the kind {other.kind!r}, expected {first.kind!r} as"
                    f" {first.place or 'the first question'} is: one kind a task"
                )
        for name in ("shots", "max_new_tokens"):
            if getattr(self, name) < 0:
                raise InputError(f"{self.name}: {name} is {getattr(self, name)}, expected 0 or more")

    @property
    def kind(self) -> str:
        """ "choice", "answer" or "text": that of its questions."""
        return self.questions[0].kind

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides what a model is asked, in hexadecimal: same digest, same task."""
        settings = [
            self.description,
            self.delimiter,
            self.separator,
            self.stop,
            self.shots,
            self.max_new_tokens,
        ]
        rows = [[question.row() for question in part] for part in (self.questions, self.examples)]
        text = json.dumps([settings, rows], ensure_ascii=True, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def groups(self) -> dict[str, int]:
        """Group → how many questions it has, in the order in which they come."""
        return dict(Counter(question.group for question in self.questions))

    @checked
    def prompts(
        self, shots: int | None = None, *, seed: int | None = 0, random_labels: bool = False
    ) -> list[str]:
        """What stands before the answer to each question: description, examples, and its prompt.

        Parameters
        ----------
        shots : int, optional
            Examples before each question: the suite's own number unless given.
        seed : int or None
            Draws the examples of each question, whichever others are asked. None takes the first ones.
        random_labels : bool
            Whether the answer of each example is drawn from its choices, or from all examples' answers: what
            is learned from examples beside how they look and which answers there are, it takes away (Min et
            al. 2022).

        Raises
        ------
        InputError
            Where there are not as many examples, or examples before a text.
        """
        shots = self.shots if shots is None else shots
        if shots < 0 or (shots and self.kind == TEXT):
            raise InputError(f"{self.name}: shots is {shots}, expected 0 of texts, else 0 or more")
        return [self._prompt(n, shots, seed, random_labels) for n in range(len(self.questions))]

    def _prompt(self, n: int, shots: int, seed: int | None, random_labels: bool) -> str:
        """The prompt of question n."""
        question = self.questions[n]
        if shots == 0:
            return self.description + question.prompt
        pool = [other for other in self.examples or self.questions if other != question]
        if len(pool) < shots:
            raise InputError(
                f"{self.name}: {shots} examples are to stand before a question, expected at most {len(pool)},"
                " which there are beside it"
            )
        rng = generator(0 if seed is None else seed, "shots", n)
        drawn = list(range(shots)) if seed is None else rng.choice(len(pool), shots, replace=False).tolist()
        parts = [self.description]
        for i in drawn:
            target = pool[i].target
            if random_labels:
                labels = pool[i].choices or [other.target for other in pool]
                target = labels[int(rng.integers(len(labels)))]
            parts += [pool[i].prompt, self.delimiter, target, self.separator]
        return "".join([*parts, question.prompt])

    @checked
    def save(self, path: StrPath) -> None:
        """Write the questions to a file, an object a line; or all that the suite is, as a task of lm-eval.

        Parameters
        ----------
        path : path
            Of a name that ends in .json or .yaml, the settings stand there, in JSON, as read_suite reads
            them, and lm-eval where it is .yaml; the questions stand beside it, in a file that ends in .jsonl.
            Any other name gets the questions alone.
        """
        target = atomic.named(path)
        if target.suffix.lower() not in TASKS:
            atomic.write_file(target, _lines(self.questions))
            return
        files = {"test": target.with_suffix(".jsonl").name}
        if self.examples:
            files["train"] = f"{target.stem}-examples.jsonl"
            atomic.write_file(target.with_name(files["train"]), _lines(self.examples))
        atomic.write_file(target.with_name(files["test"]), _lines(self.questions))
        atomic.write_json(target, self._task(files))

    def _task(self, files: dict[str, str]) -> dict[str, Any]:
        """The settings by their names in lm-eval."""
        output, fields = OF_LM_EVAL[self.kind]
        task: dict[str, Any] = {
            "task": self.name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            "output_type": output,
            **fields,
        }
        if self.kind != TEXT:
            task |= {"num_fewshot": self.shots, "description": self.description}
            task |= {"target_delimiter": self.delimiter, "fewshot_delimiter": self.separator}
            task |= {"fewshot_split": "train"} if self.examples else {}
        if self.kind == ANSWER:
            most = {"max_gen_toks": self.max_new_tokens} if self.max_new_tokens else {}
            task["generation_kwargs"] = {"until": list(self.stop), "do_sample": False, **most}
        return task


def _lines(questions: Sequence[Question]) -> bytes:
    lines = [json.dumps(question.row(), ensure_ascii=False) for question in questions]
    return "".join(f"{line}\n" for line in lines).encode()
