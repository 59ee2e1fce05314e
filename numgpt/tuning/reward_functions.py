"""What gives rewards: a reward model, or a function that somebody has written."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import user_code
from ..argument_kinds import as_array, is_finite
from ..arguments import Positive, Size, checked
from ..data import (
    ChatTemplate,
    Conversation,
    JinjaTemplate,
    Message,
    Prompt,
    template_from_state,
)
from ..errors import InputError
from ..model.gpt import GPT
from .classify import head_of, predictions

SHOWN = 60  # characters of a prompt, of a response and of what went wrong in a message
MIN_SPREAD = 1e-6  # of rewards that are to have the variance 1


class Reward(Protocol):
    """What gives a reward to each of some responses; responses[i] answers prompts[i].

    A prompt that has several responses is there as often.
    """

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Any:
        """→ finite numbers (N,)."""


@checked
def rewarded(
    reward: Callable[..., Any], prompts: Sequence[Prompt], responses: Sequence[str]
) -> NDArray[np.float64]:
    """The rewards of responses, held to what a Reward promises: N finite numbers, in float64.

    Raises
    ------
    InputError
        Where there are fewer or more, or one is not finite; the prompt is named.
    """
    _pairs(prompts, responses)
    given = reward(prompts, responses)
    array = as_array("reward: what it gave", given, f"numbers ({len(responses)},)")
    if array.dtype.kind not in "biuf" or array.shape != (len(responses),):
        raise InputError(
            f"reward: it gave {array.dtype} of shape {array.shape}, expected numbers ({len(responses)},), one"
            " for each response"
        )
    numbers = array.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if wrong.size:
        n = int(wrong[0])
        raise InputError(_message(prompts[n], responses[n], f"the reward is {numbers[n]}"))
    return numbers


def _pairs(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[tuple[Prompt, str]]:
    """Each response with its prompt; InputError where there is not one for each."""
    if len(prompts) != len(responses):
        raise InputError(
            f"reward: there are {len(prompts)} prompts and {len(responses)} responses, expected a prompt for"
            " each response: give one that has several as often"
        )
    return list(zip(prompts, responses))


class ModelReward:
    """The number that a reward model gives a response behind its prompt, (r − shift) / scale.

    It reads what numgpt tune reward trained it on: the whole conversation in its template, and the end of the
    response, also of one that was cut off before it ended.

    Parameters
    ----------
    model : GPT
        With a tokenizer, and a Head of the task "reward".
    template : data.ChatTemplate or data.JinjaTemplate, optional
        The one that it was tuned with: the model's own unless given.
    shift, scale : float
        What is taken away from its numbers, and what they are divided by.
    batch_size : int
        How many responses it reads at once.

    Raises
    ------
    InputError
        For a model without such a head, a tokenizer or a template; in use, for a text that is longer than its
        context, or that its tokenizer cannot spell.
    """

    @checked
    def __init__(
        self,
        model: GPT,
        template: ChatTemplate | JinjaTemplate | None = None,
        *,
        shift: float = 0.0,
        scale: Positive = 1.0,
        batch_size: Size = 32,
    ) -> None:
        head_of(model, ("reward",))
        tokenizer = model.tokenizer
        if tokenizer is None:
            raise InputError("ModelReward: the model has no tokenizer, expected one to read responses")
        if template is None:
            if model.template is None:
                raise InputError(
                    "ModelReward: the model keeps no template, expected the one that it was tuned with: give"
                    " template"
                )
            template = template_from_state(model.template)
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.shift = shift
        self.scale = scale
        self.batch_size = batch_size

    @checked
    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float64]:
        """The rewards (N,)."""
        texts = [self._ids(prompt, response) for prompt, response in _pairs(prompts, responses)]
        numbers = predictions(self.model, texts, self.batch_size).reshape(len(texts))
        return (numbers - self.shift) / self.scale

    def _ids(self, prompt: Prompt, response: str) -> NDArray[np.int64]:
        messages = *prompt.conversation.messages, Message("assistant", response)
        ids = self.template.encode(Conversation(messages, prompt.place), self.tokenizer).ids
        size = self.model.config.block_size
        if len(ids) > size:
            what = f"prompt and response have {len(ids):,} tokens"
            raise InputError(_message(prompt, response, what, f"at most the reward model's {size:,}"))
        return ids

    @checked
    def normalised(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> ModelReward:
        """The same, with the shift and scale that give these responses the mean 0 and the variance 1.

        They are meant to be responses of the model that is yet to be trained (Ziegler et al. 2019): a reward
        model's numbers have no zero, and no unit.

        Raises
        ------
        InputError
            Where there is none, or all have the same reward.
        """
        plain = ModelReward(self.model, self.template, batch_size=self.batch_size)
        numbers = rewarded(plain, prompts, responses) if len(responses) else np.zeros(0)
        spread = float(numbers.std()) if numbers.size else 0.0
        if spread < MIN_SPREAD:
            raise InputError(
                f"ModelReward: the rewards of {len(numbers)} responses spread by {spread:.2g}, expected"
                " responses that differ: give more of them"
            )
        shift = float(numbers.mean())
        return ModelReward(self.model, self.template, shift=shift, scale=spread, batch_size=self.batch_size)


class FunctionReward:
    """What a function of one prompt and one response says.

    Parameters
    ----------
    function : callable
        function(prompt, response, fields) → a finite number, or a truth. prompt: what the user said last.
        fields: what else the prompt's row holds, a dict of its own for each call.
    name : str, optional
        What messages call it: the function's own name unless given.

    Raises
    ------
    InputError
        For a function that does not take three arguments; in use, where it raises something or gives no
        finite number: the message names the prompt's place, and shows prompt and response.

    Examples
    --------
    >>> from numgpt.data import Conversation, Message, Prompt
    >>> prompt = Prompt(Conversation([Message("user", "2+2=")]), {"answer": "4"})
    >>> reward = FunctionReward(lambda prompt, response, fields: response == fields["answer"])
    >>> reward([prompt, prompt], ["4", "5"])
    array([1., 0.])
    """

    @checked
    def __init__(self, function: Callable[[str, str, dict[str, Any]], Any], name: str | None = None) -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # some that are written in C do not say what they take
            return
        try:
            signature.bind("", "", {})
        except TypeError as error:
            raise InputError(
                f"{self.name}: takes {signature}, expected a function of (prompt, response, fields)"
            ) from error

    @checked
    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float64]:
        """The rewards (N,)."""
        numbers = [self._number(prompt, response) for prompt, response in _pairs(prompts, responses)]
        return np.array(numbers, np.float64)

    def _number(self, prompt: Prompt, response: str) -> float:
        try:
            value = self.function(prompt.text, response, dict(prompt.fields))
        except user_code.RAISED as error:
            what = f"{self.name} raised {type(error).__name__}{_reason(error)}"
            raise InputError(_message(prompt, response, what)) from error
        if isinstance(value, bool | np.bool_):
            return float(value)
        if not is_finite(value):
            raise InputError(_message(prompt, response, f"{self.name} gave {_shown(value)}"))
        return float(value)


def _reason(error: BaseException) -> str:
    """What an error says, behind a colon; nothing where it says nothing."""
    try:
        text = _short(str(error))
    except user_code.RAISED:
        return ""
    return f": {text}" if text else ""


def _shown(value: Any) -> str:
    """A value in a message; of what is neither a number nor a text its type alone, since repr may raise."""
    is_plain = value is None or isinstance(value, int | float | complex | str)
    return _short(repr(value)) if is_plain else f"something of type {type(value).__name__}"


@checked
def reward_of(place: str | os.PathLike[str]) -> FunctionReward | ModelReward:
    """What gives rewards, by its name: FILE.py:NAME, package.module:NAME, or what leads to a reward model."""
    text = str(place)
    if not user_code.is_named(text):
        return ModelReward(GPT.load(place))
    function = user_code.named(text)
    if not callable(function):
        raise InputError(f"{text}: is {_shown(function)}, expected a function that gives rewards")
    return FunctionReward(function, text)


def _message(prompt: Prompt, response: str, what: str, expected: str = "a finite number") -> str:
    """What went wrong with a response, and with which."""
    shown = f"{_short(prompt.text)!r}, answered by {_short(response)!r}"
    return f"{prompt.place}: {what}, expected {expected}, for the prompt {shown}"


def _short(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
