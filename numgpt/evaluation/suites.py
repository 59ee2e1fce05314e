"""Suites that need no download: generated from a seed, the same questions everywhere."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..arguments import checked
from ..data import corpora
from ..errors import InputError, did_you_mean
from ..random import generator
from .questions import Question, Suite

SINGULAR = ("cat", "teacher", "river", "house", "letter", "garden", "horse", "friend", "window", "child")
PLURAL = ("cats", "teachers", "rivers", "houses", "letters", "gardens", "horses", "friends", "windows")
ADJECTIVES = ("old", "small", "quiet", "good", "dark", "strange", "lovely", "new")
PLACES = ("near", "behind", "beside", "before")
MEN = ("man", "father", "brother", "king", "son", "gentleman")
WOMEN = ("woman", "mother", "sister", "queen", "daughter", "lady")
VERBS = ("saw", "knew", "hurt", "thought of", "spoke of", "laughed at")
WITH_VOWEL = ("apple", "evening", "island", "orange", "uncle", "answer", "open door", "old house")
WITHOUT_VOWEL = ("dog", "morning", "table", "letter", "walk", "book", "green door", "new house")
PARTICIPLES = ("gone", "come", "seen it", "been there", "left", "spoken", "done it", "written", "heard it")
SUBJECTS = ("She", "He", "It", "My sister", "The child", "Her father", "The lady", "Nobody")
ANIMALS = tuple(
    "horse dog cat cow sheep bird fish lion bear wolf mouse goat duck rabbit fox deer pig hen swan eagle frog"
    " snake donkey monkey spider tiger whale camel pony lamb crow goose beetle badger squirrel hawk".split()
)
FOODS = tuple(
    "bread cheese butter cake soup milk honey sugar rice pie beef bacon toast jam salad pudding cream pepper"
    " mustard biscuit porridge sausage omelette pastry custard gravy stew jelly pickle tart muffin broth"
    " pasta mutton cocoa syrup".split()
)

LETTERS = "abcdefghij"
LENGTHS = (3, 4, 5, 6)  # letters of a string to be copied, reversed or sorted
DIGITS = (1, 2, 3)  # of a number to be added
DISTANCES = (1, 2, 4, 8, 16)  # pairs between a key's value and where it is asked for
CLOZE = "cloze"
QUESTIONS = 200
ATTEMPTS = 500  # to draw a question that is not there yet
CONTEXT = 200  # characters before a word that is to be found
RARE = 3  # times that a word has to stand in a text to be asked for
WORD = re.compile(r"[A-Za-z]{4,10}")


@checked
def suite(name: str, questions: int | None = None, *, seed: int = 0, text: str | None = None) -> Suite:
    """The generated suite of a name, of questions that all differ.

    minimal-pairs    two sentences that differ in a word or in their order, of which one is English
    copy, reverse, sort    a string of letters, and it copied, reversed or sorted; by its length
    add              two numbers and their sum; by their digits
    recall           sixteen pairs of a letter and a capital, and the capital of one of them; by its distance
    labels           words for animals or food, behind eight others with their kinds
    cloze            the last word of a passage of a text, and three words of as many bytes from the same text

    Parameters
    ----------
    name : str
    questions : int, optional
        How many: 200 unless given, or as many as there are.
    seed : int
        Draws them: the same name, number, seed and text give the same digest on every machine.
    text : str, optional
        That cloze is made of; Jane Austen's novels unless given.

    Raises
    ------
    InputError
        For another name, more questions than there are, and a text with too few words.

    Examples
    --------
    >>> from numgpt.evaluation import suite
    >>> made = suite("reverse", 2)
    >>> [(question.prompt, question.target) for question in made.questions], made.digest[:8]
    ([('dfj=', 'jfd'), ('bfca=', 'acfb')], '3a3384b9')
    """
    if name not in NAMES:
        raise InputError(
            f"suite: {name!r} is unknown, expected {', '.join(NAMES)}{did_you_mean(name, NAMES)}"
        )
    if questions is not None and questions < 1:
        raise InputError(f"suite: questions is {questions}, expected 1 or more")
    if text is not None and name != CLOZE:
        raise InputError(f"suite: text is given, which {name} is not made of, expected it with cloze alone")
    if name == CLOZE:
        text = corpora.named("numgpt:austen")[1] if text is None else text
        return Suite(name, _cloze(text, questions or QUESTIONS, seed))
    make, settings = MAKERS[name]
    made: dict[Question, None] = {}
    for n in range(questions or QUESTIONS):
        new = (make(generator(seed, "suite", name, n, attempt), n) for attempt in range(ATTEMPTS))
        question = next((question for question in new if question not in made), None)
        if question is None and questions is not None:
            raise InputError(
                f"suite: {name} has some {len(made)} different questions, expected {questions} of them: ask"
                " for fewer"
            )
        if question is None:
            break
        made[question] = None
    named = [replace(question, place=f"{name}, question {n}") for n, question in enumerate(made, 1)]
    return Suite(name, named, **settings)


# Two sentences.


def _minimal_pair(rng: Any, n: int) -> Question:
    kind = list(PAIRS)[n % len(PAIRS)]
    good, bad = PAIRS[kind](rng)
    gold = int(rng.integers(2))
    return Question(choices=(bad, good) if gold else (good, bad), gold=gold, group=kind)


def _agreement(rng: Any) -> tuple[str, str]:
    return _numbered(rng, "The {noun} {verb} {adjective}.")


def _attraction(rng: Any) -> tuple[str, str]:
    """With a noun of the other number between subject and verb."""
    return _numbered(rng, "The {noun} {place} the {other} {verb} {adjective}.")


def _numbered(rng: Any, form: str) -> tuple[str, str]:
    """A sentence with a verb in the right and in the wrong number."""
    is_plural = bool(rng.integers(2))
    nouns = (PLURAL, SINGULAR) if is_plural else (SINGULAR, PLURAL)
    words = {"noun": _one(rng, nouns[0]), "other": _one(rng, nouns[1]), "place": _one(rng, PLACES)}
    words["adjective"] = _one(rng, ADJECTIVES)
    verbs = [pair[is_plural] for pair in (("is", "are"), ("are", "is"))]
    if rng.integers(2):
        verbs = [pair[is_plural] for pair in (("was", "were"), ("were", "was"))]
    good, bad = (form.format(verb=verb, **words) for verb in verbs)
    return good, bad


def _reflexive(rng: Any) -> tuple[str, str]:
    is_woman = bool(rng.integers(2))
    begin = f"The {_one(rng, WOMEN if is_woman else MEN)} {_one(rng, VERBS)}"
    good, bad = ("herself", "himself") if is_woman else ("himself", "herself")
    return f"{begin} {good}.", f"{begin} {bad}."


def _article(rng: Any) -> tuple[str, str]:
    has_vowel = bool(rng.integers(2))
    begin = _one(rng, ("There was", "She spoke of", "It was", "He wished for", "We found"))
    noun = _one(rng, WITH_VOWEL if has_vowel else WITHOUT_VOWEL)
    good, bad = ("an", "a") if has_vowel else ("a", "an")
    return f"{begin} {good} {noun}.", f"{begin} {bad} {noun}."


def _order(rng: Any) -> tuple[str, str]:
    """The auxiliary before and behind the participle."""
    subject, participle = _one(rng, SUBJECTS), _one(rng, PARTICIPLES)
    first, _, rest = participle.partition(" ")
    rest = f" {rest}" if rest else ""
    return f"{subject} has {first}{rest}.", f"{subject} {first} has{rest}."


PAIRS: Mapping[str, Callable[[Any], tuple[str, str]]] = {
    "agreement": _agreement,
    "attraction": _attraction,
    "reflexive": _reflexive,
    "article": _article,
    "order": _order,
}


def _one(rng: Any, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


# Strings and sums.


def _string(change: Callable[[str], str]) -> Callable[[Any, int], Question]:
    """A maker of questions about a string of letters."""

    def make(rng: Any, n: int) -> Question:
        length = LENGTHS[n % len(LENGTHS)]
        text = "".join(_one(rng, tuple(LETTERS)) for _ in range(length))
        return Question(f"{text}=", answers=[change(text)], group=f"{length} letters")

    return make


def _sum(rng: Any, n: int) -> Question:
    digits = DIGITS[n % len(DIGITS)]
    least = 10 ** (digits - 1) if digits > 1 else 0
    a, b = (int(rng.integers(least, 10**digits)) for _ in range(2))
    group = f"{digits} digit{'s' if digits > 1 else ''}"
    return Question(f"{a}+{b}=", answers=[str(a + b)], group=group)


# Recall and labels.


def _recall(rng: Any, n: int) -> Question:
    """Pairs such as "aK bD", and a key again: its value stood `distance` pairs before."""
    distance, pairs = DISTANCES[n % len(DISTANCES)], max(DISTANCES)
    keys = [string.ascii_lowercase[i] for i in rng.permutation(26)[:pairs]]
    values = [string.ascii_uppercase[i] for i in rng.permutation(26)[:pairs]]
    asked = pairs - distance
    others = [i for i in range(pairs) if i != asked]
    wrong = [values[others[i]] for i in rng.permutation(len(others))[:3]]
    gold = int(rng.integers(4))
    wrong.insert(gold, values[asked])
    prompt = " ".join([*(key + value for key, value in zip(keys, values)), keys[asked]])
    return Question(prompt, wrong, gold, group=f"distance {distance}")


def _label(rng: Any, n: int) -> Question:
    gold = n % 2
    return Question(f"{_one(rng, (ANIMALS, FOODS)[gold])}:", ("animal", "food"), gold)


# Of a text.


def _cloze(text: str, questions: int, seed: int) -> list[Question]:
    """The last words of passages, each among words of as many bytes that stand in the text as well."""
    often = Counter(WORD.findall(text))
    of_size: dict[int, list[str]] = {}
    for word in sorted(word for word, times in often.items() if times >= RARE and word.islower()):
        of_size.setdefault(len(word), []).append(word)
    places = list(_passages(text, {size: set(words) for size, words in of_size.items() if len(words) > 3}))
    if len(places) < questions:
        raise InputError(
            f"suite: the text has {len(places):,} passages of {CONTEXT} characters that end with a word to"
            f" ask for, expected {questions:,} or more: give a longer text, or ask for fewer questions"
        )
    rng = generator(seed, "suite", "cloze")
    found: list[Question] = []
    for i in sorted(rng.permutation(len(places))[:questions].tolist()):
        prompt, word = places[i]
        words = [other for other in of_size[len(word)] if other != word]
        choices = [words[j] for j in rng.permutation(len(words))[:3]]
        gold = int(rng.integers(4))
        choices.insert(gold, word)
        found.append(
            Question(
                prompt, choices, gold, group=f"{len(word)} letters", place=f"cloze, question {len(found) + 1}"
            )
        )
    return found


def _passages(text: str, known: Mapping[int, set[str]]) -> Iterator[tuple[str, str]]:
    """(what stands before a word, the word): one of each stretch of a paragraph, from its first character."""
    for paragraph in text.split("\n"):
        for begin in range(0, len(paragraph) - CONTEXT, 2 * CONTEXT):
            end = paragraph.find(" ", begin + CONTEXT)
            word = re.match(r" ([a-z]+)\b", paragraph[end:]) if end >= 0 else None
            if word and word[1] in known.get(len(word[1]), ()):
                yield paragraph[begin:end].lstrip(), word[1]


# Name → what makes a question of it, and how the Suite puts them.
OF_LINES = {"delimiter": "", "separator": "\n", "shots": 4}
MAKERS: dict[str, tuple[Callable[[Any, int], Question], dict[str, Any]]] = {
    "minimal-pairs": (_minimal_pair, {"delimiter": ""}),
    "copy": (_string(lambda text: text), OF_LINES),
    "reverse": (_string(lambda text: text[::-1]), OF_LINES),
    "sort": (_string(lambda text: "".join(sorted(text))), OF_LINES),
    "add": (_sum, OF_LINES),
    "recall": (_recall, {"delimiter": ""}),
    "labels": (_label, {"separator": "\n", "shots": 8}),
}
NAMES = (*MAKERS, CLOZE)
