"""Putting a suite's questions to a model: choices by likelihood, written answers, texts to be predicted."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import AtLeastZero, Count, Size, checked, checked_as
from ..errors import InputError, did_you_mean
from ..model.gpt import GPT
from .answers import is_exact, is_near, written
from .likelihoods import Progress, encoded, ids_of, prefix_of, rolled, surprises, tokenizer_of
from .questions import ANSWER, CHOICE, Suite
from .statistics import Estimate, difference, estimate, pass_at_k

Scores = NDArray[np.float64]

LN2 = math.log(2)
SPACES = re.compile(r"\s+")
LONGEST_ANSWER = 16  # tokens that a written answer may have at least, and this more than the right one
SPARE = 4


class Measure(NamedTuple):
    """What each question scored, and what the sum is divided by; None is how many there are."""

    scores: Scores
    weights: Scores | None = None
    is_exponent: bool = False  # a perplexity: e to the power of the ratio


@dataclass(frozen=True, eq=False)
class Result:
    """What a model scored on a suite.

    suite: what was asked. measures: name → Measure. details: a mapping for each question, of what the model
    answered. protocol: what else decides the numbers, by name. cut: questions of which the beginning did not
    fit.
    """

    suite: Suite
    measures: Mapping[str, Measure]
    details: Sequence[Mapping[str, Any]]
    protocol: Mapping[str, Any]
    cut: int = 0

    @property
    def main(self) -> str:
        """The measure that is drawn and compared: the first."""
        return next(iter(self.measures))

    @checked
    def estimate(self, measure: str = "", group: str | None = None) -> Estimate:
        """A measure with its standard error, of all questions or of a group; the main one unless named.

        Of a perplexity, the error is that of its logarithm, times the perplexity.
        """
        m = self._measure(measure)
        chosen = self._of(group)
        found = estimate(m.scores[chosen], None if m.weights is None else m.weights[chosen])
        if not m.is_exponent:
            return found
        value = math.exp(found.value) if found.value < 700 else math.inf
        return Estimate(value, value * found.error)

    @checked
    def difference(self, other: Result, measure: str = "", group: str | None = None) -> Estimate:
        """How much higher a measure is than that of another model on the same questions, paired.

        Of a perplexity it is the difference of its logarithms.

        Raises
        ------
        InputError
            Where the other answered other questions.
        """
        if self.suite.questions != other.suite.questions:
            raise InputError(
                f"difference: of {self.suite.name} and {other.suite.name}, expected results on the same"
                " questions"
            )
        name, chosen = measure or self.main, self._of(group)
        mine, theirs = self._measure(name), other._measure(name)
        weights = None if mine.weights is None else mine.weights[chosen]
        return difference(mine.scores[chosen], theirs.scores[chosen], weights)

    def _measure(self, name: str) -> Measure:
        name = name or self.main
        if name not in self.measures:
            raise InputError(
                f"{self.suite.name}: has no measure {name!r}{did_you_mean(name, self.measures)}, expected one"
                f" of {', '.join(self.measures)}"
            )
        return self.measures[name]

    def _of(self, group: str | None) -> NDArray[np.bool_]:
        """Which questions are of a group; all where None is given."""
        groups = [question.group for question in self.suite.questions]
        if group is not None and group not in groups:
            raise InputError(
                f"{self.suite.name}: has no group {group!r}, expected one of {', '.join(self.suite.groups)}"
            )
        return np.array([group is None or own == group for own in groups])


@np.errstate(under="ignore")
@checked_as("evaluate")
def evaluate(
    model: GPT,
    suite: Suite,
    *,
    shots: int | None = None,
    seed: int | None = 0,
    random_labels: bool = False,
    samples: Size = 1,
    temperature: AtLeastZero = 0.0,
    max_new_tokens: Count = 0,
    batch_size: Size = 32,
    progress: Callable[[int], object] | None = None,
) -> Result:
    """Put a suite's questions to a model.

    A choice is the answer that the model finds likeliest behind the prompt:

        acc                argmax Σ ln p
        acc_norm           argmax Σ ln p / characters of the answer
        acc_bytes          argmax Σ ln p / its bytes in UTF-8
        acc_mutual_info    argmax Σ ln p − Σ ln p without the prompt
        acc_tokens         argmax Σ ln p / its tokens

    A written answer is right (exact_match) where it is one of the suite's, and near (flexible_match) where
    its last number is, or where it is but for punctuation, articles and capital letters. Of several samples
    both are means, and pass@k is the chance that k of them hold an exact one. A text is predicted in windows
    as lm-eval does; its words, bytes and tokens are what perplexities and bits per byte are taken over.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    suite : Suite
    shots, seed, random_labels
        The examples before each question, as Suite.prompts draws them.
    samples : int
        Written answers to each question; more than 1 need a temperature.
    temperature : float
        Of written answers; 0 is greedy.
    max_new_tokens : int
        Of a written answer; 0 is the suite's own number.
    batch_size : int
        Rows that the model reads at once; no number depends on it.
    progress : callable, optional
        Called with a number of questions, or of choices, when they are done.

    Returns
    -------
    Result

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.evaluation import Question, Suite, evaluate
    >>> asked = [("She", (" was", " were"), 0), ("They", (" was", " were"), 1), ("I", (" was", " were"), 0)]
    >>> suite = Suite("verbs", [Question(*one) for one in asked], delimiter="")
    >>> result = evaluate(numgpt.GPT.load("numgpt:austen"), suite)
    >>> print(result.estimate("acc"))
    1.0000 ± 0.0000
    """
    tokenizer_of(model)
    if samples > 1 and temperature == 0:
        raise InputError(
            f"evaluate: samples is {samples} at temperature 0, where all are the same, expected a temperature"
            " above 0"
        )
    prompts = suite.prompts(shots, seed=seed, random_labels=random_labels)
    if suite.kind == CHOICE:
        found = _chosen(model, suite, prompts, batch_size, progress)
    elif suite.kind == ANSWER:
        how = {"samples": samples, "temperature": temperature, "seed": seed or 0}
        found = _answered(model, suite, prompts, max_new_tokens, batch_size, progress, how)
    else:
        found = _predicted(model, suite, prompts, batch_size, progress)
    protocol = {
        "shots": suite.shots if shots is None else shots,
        "seed": seed,
        "random_labels": random_labels,
        "prefix": tokenizer_of(model).decode(prefix_of(tokenizer_of(model))),
        "block_size": model.config.block_size,
    }
    return Result(found.suite, found.measures, found.details, {**protocol, **found.protocol}, found.cut)


def _chosen(model: GPT, suite: Suite, prompts: Sequence[str], batch_size: int, progress: Progress) -> Result:
    """Choices by their likelihoods."""
    asked, alone = [], []
    for question, prompt in zip(suite.questions, prompts):
        with _placed(question.place):
            asked += [encoded(model, prompt, suite.delimiter + choice) for choice in question.choices]
            alone += [encoded(model, "", suite.delimiter + choice) for choice in question.choices]
    found = [logp for logp, _ in surprises(model, asked, batch_size, progress)]
    unconditional = [logp.sum() for logp, _ in surprises(model, alone, batch_size, progress)]
    names = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_tokens")
    right: dict[str, list[float]] = {name: [] for name in names}
    details, begin, cut = [], 0, 0
    for question, prompt in zip(suite.questions, prompts):
        part = slice(begin, begin + len(question.choices))
        begin = part.stop
        logp = np.array([tokens.sum() for tokens in found[part]])
        divided = {
            "acc": logp,
            "acc_norm": logp / [len(choice) for choice in question.choices],
            "acc_bytes": logp / [len(choice.encode()) for choice in question.choices],
            "acc_mutual_info": logp - unconditional[part],
            "acc_tokens": logp / [len(tokens) for tokens in found[part]],
        }
        chosen = {name: int(values.argmax()) for name, values in divided.items()}
        for name, place in chosen.items():
            right[name].append(float(place == question.gold))
        cut += any(one.cut for one in asked[part])
        details.append({"prompt": prompt, "logp": logp.tolist(), "chosen": chosen})
    if not any(prompts):
        del right["acc_mutual_info"]  # which compares a prompt with none
    measures = {name: Measure(np.array(values)) for name, values in right.items()}
    return Result(suite, measures, details, {}, cut)


def _answered(
    model: GPT,
    suite: Suite,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
    how: Mapping[str, Any],
) -> Result:
    """Written answers, and which of them are right."""
    tokenizer = tokenizer_of(model)
    longest = 0
    for question, prompt in zip(suite.questions, prompts):
        with _placed(question.place):
            ids_of(tokenizer, prompt)
            longest = max(longest, *(_size(model, answer) for answer in question.answers))
    half = max(longest + 1, model.config.block_size // 2)  # the other one is the prompt's
    most = max_new_tokens or suite.max_new_tokens or min(half, max(LONGEST_ANSWER, longest + SPARE))
    room = model.config.block_size - most
    cut = sum(len(ids_of(tokenizer, prompt)) > room for prompt in prompts)
    texts = written(model, prompts, suite.stop, most, batch_size=batch_size, progress=progress, **how)
    exact = [[is_exact(t, q.answers) for t in of_one] for q, of_one in zip(suite.questions, texts)]
    near = [[is_near(t, q.answers) for t in of_one] for q, of_one in zip(suite.questions, texts)]
    measures = {
        "exact_match": Measure(np.array(exact, float).mean(-1)),
        "flexible_match": Measure(np.array(near, float).mean(-1)),
    }
    n = how["samples"]
    for k in dict.fromkeys(2**i for i in range(n.bit_length()) if n > 1):
        chances = [pass_at_k(n, sum(of_one), k) for of_one in exact]
        measures[f"pass@{k}"] = Measure(np.array(chances))
    details = [{"prompt": prompt, "answers": of_one} for prompt, of_one in zip(prompts, texts)]
    protocol = {"max_new_tokens": most, "stop": suite.stop, **how}
    return Result(suite, measures, details, protocol, cut)


def _size(model: GPT, answer: str) -> int:
    """How many tokens an answer has; InputError for none."""
    size = len(ids_of(tokenizer_of(model), answer))
    if size == 0:
        raise InputError(f"the answer {answer!r} has no token, expected one or more")
    return size


def _predicted(
    model: GPT, suite: Suite, prompts: Sequence[str], batch_size: int, progress: Progress
) -> Result:
    """Texts by their likelihood in windows."""
    asked, ends, tokens = [], [0], []
    for question, text in zip(suite.questions, prompts):
        with _placed(question.place):
            ids = ids_of(tokenizer_of(model), text)
            if not len(ids):
                raise InputError("the text has no token, expected one or more")
        asked += rolled(model, ids)
        ends.append(len(asked))
        tokens.append(len(ids))
    found = [-logp.sum() for logp, _ in surprises(model, asked, batch_size, progress)]
    nats = np.array([sum(found[begin:end]) for begin, end in itertools.pairwise(ends)])
    texts = [question.prompt for question in suite.questions]
    measures = text_measures(nats, texts, tokens)
    details = [{"nats": float(n), "tokens": t} for n, t in zip(nats, tokens)]
    return Result(suite, measures, details, {"windows": "disjoint, lm-eval's rolling"})


def text_measures(nats: Scores, texts: Sequence[str], tokens: Sequence[int]) -> dict[str, Measure]:
    """What is told of texts with these surprises: bits per byte, loss, and perplexities.

    Words are what stands between spaces, one more than there are runs of them, as lm-eval counts.
    """
    words = np.array([len(SPACES.split(text)) for text in texts], float)
    size = np.array([len(text.encode()) for text in texts], float)
    return {
        "bits_per_byte": Measure(nats / LN2, size),
        "loss": Measure(nats, np.array(tokens, float)),
        "perplexity": Measure(nats, np.array(tokens, float), True),
        "word_perplexity": Measure(nats, words, True),
        "byte_perplexity": Measure(nats, size, True),
    }


@contextlib.contextmanager
def _placed(place: str) -> Iterator[None]:
    """In this scope an InputError begins with the place of a question."""
    try:
        yield
    except InputError as error:
        text = str(error).removeprefix("eval: ")
        raise InputError(f"{place}: {text}" if place else str(error)) from error
