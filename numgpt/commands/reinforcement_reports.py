"""What numgpt tune tells of a run that samples: rewards beside the divergence, and the answers themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..storage.files import open_file, parse_json
from ..storage.output import send_nowhere
from ..training import log
from . import runs
from .printing import command_line, say
from .tuning_reports import Reports, shortened

if TYPE_CHECKING:
    from ..model.gpt import GPT
    from ..training.log import Entry
    from ..training.trainer import Trainer

ANSWERS = 4  # that are shown
MOST = 256  # held-out prompts that are answered in a measurement
INDENT = " " * 13
# Entry of the log → what it is called in a line, and its digits behind the point.
SHOWN = {
    "clip_fraction": ("clipped", 3),
    "entropy": ("entropy", 3),
    "length": ("length", 1),
    "ended": ("ended", 2),
    "no_signal": ("no signal", 2),
    "explained_variance": ("explained variance", 3),
    "beta": ("beta", 4),
}


class HeldOut(NamedTuple):
    """The mean rewards of responses to held-out prompts: sampled as in training, and the most likely ones."""

    sampled: float
    greedy: float

    def __str__(self) -> str:
        return f"held-out reward {self.sampled:.4f} sampled, {self.greedy:.4f} of the most likely answers"


class RewardReports(Reports):
    """What a run that samples tells while it trains, and in the end."""

    def __init__(self, kind: str, prompts: list[Any], args: Any) -> None:
        super().__init__(kind, prompts, args)
        self.first: Entry | None = None  # the entry of the first iteration
        self.latest: Entry = {}
        self.at_first: HeldOut | None = None
        self.is_noted = False  # that answers became alike

    def begin(self, trainer: Trainer) -> None:
        """Measure what the model is worth before it learns, or read how the run began."""
        if trainer.updates == 0:
            self.at_first = held_out(trainer.model, trainer.objective, self.prompts)
            if self.at_first is not None:
                say(f"at first {self.at_first}")
        elif trainer.out is not None:
            self.first = _first_of(trainer.out / log.NAME)

    def update(self, trainer: Trainer, entry: Entry) -> None:
        """Show an entry of the log, and what is due at its step."""
        assert self.progress is not None, "beside() comes first"
        self.progress.update(trainer, entry)
        self.latest = self.latest | entry
        objective: Any = trainer.objective
        if "reward" in entry:
            self.first = self.first or entry
        if entry["step"] % objective.per_iteration:
            return
        lines: list[str] = []
        if _is_due(trainer, trainer.training.eval_interval):
            lines.append(f"step {entry['step']:>6}  {self._numbers()}")
            measured = held_out(trainer.model, objective, self.prompts)
            lines += [] if measured is None else [f"{INDENT}{measured}"]
        if _is_due(trainer, self.every or trainer.training.eval_interval):
            lines += [f"{INDENT}{line}" for line in sampled(objective)]
        lines += self._note(objective)
        for line in lines:
            self.progress.write(line)

    def _numbers(self) -> str:
        """The line of an iteration."""
        e = self.latest
        parts = [f"reward {e['reward']:.4f} ± {e['reward_std']:.4f}", f"KL {e['kl']:.4f}"]
        parts += [f"{word} {e[name]:.{digits}f}" for name, (word, digits) in SHOWN.items() if name in e]
        return ", ".join(parts)

    def _note(self, objective: Any) -> list[str]:
        """A line, once, where the reward has risen and answers to different prompts are alike."""
        assert self.first is not None, "the first iteration comes first"
        prompts = len({objective.prompts[n].conversation for n in objective.iteration.prompts})
        responses = len(objective.iteration.responses)
        if self.is_noted or not are_alike(self.first, self.latest, prompts, responses):
            return []
        self.is_noted = True
        n = round(self.latest["distinct"] * responses)
        return [
            f"numgpt: the reward has risen from {self.first['reward']:.4g} to {self.latest['reward']:.4g},"
            f" and {responses} answers to {prompts} prompts are {n} texts: the model may have found one"
            " answer that the reward likes. Look at its answers; a larger --beta keeps it near its beginning"
        ]

    def at_the_end(self, trainer: Trainer, out: Path) -> int:
        """Say how the run ended, with the model that its folder gives; the exit status."""
        from ..model.gpt import GPT

        model = GPT.load(out)
        objective: Any = trainer.objective
        held = "held-out" if objective.recipe["held_out"] else "trained"
        say(f"\nanswers to {held} prompts, the most likely ones:")
        try:
            for line in answers(model, objective, self.prompts[:ANSWERS]):
                print(line, flush=True)
        except BrokenPipeError:  # nobody reads them, and the run is saved
            send_nowhere(sys.stdout)
        begun = "" if self.first is None else f"; {self.first['reward']:.4f} at first"
        say(f"\n{runs.held_out(trainer)}{begun}")
        measured = held_out(model, objective, self.prompts)
        if measured is not None:
            before = self.at_first
            first = "" if before is None else f"; at first {before.sampled:.4f} and {before.greedy:.4f}"
            say(f"{measured}{first}")
        say(f"checkpoint: {out / 'last'}; talk to it with: {command_line('chat', out)}")
        return 0


def _is_due(trainer: Trainer, interval: int) -> bool:
    """Whether a step of the iteration that has ended is one of every so many."""
    objective: Any = trainer.objective
    step = trainer.updates
    return step == trainer.training.steps or step // interval > (step - objective.per_iteration) // interval


def are_alike(first: Entry, latest: Entry, prompts: int, responses: int) -> bool:
    """Whether the reward has risen while answers to different prompts became one another's.

    The rise: two standard errors of the first mean. Alike: where each prompt has an answer of its own, there
    are at least as many texts as prompts, however sure the model is; half as many, and half as many as at
    first, says that prompts share their answers. A task of few answers has few at first, too.
    """
    names = ("reward", "reward_std", "distinct")
    if not all(isinstance(entry.get(name), int | float) for entry in (first, latest) for name in names):
        return False
    rise = latest["reward"] - first["reward"]
    now, before = (entry["distinct"] * responses for entry in (latest, first))
    has_risen = rise > 2 * first["reward_std"] / responses**0.5
    return bool(has_risen and now <= max(1, prompts / 2) and now <= before / 2)


def _first_of(path: Path) -> Entry | None:
    """The entry of the first iteration in a run's log; None where it cannot be read."""
    from ..errors import InputError

    try:
        with open_file(path) as file:
            while line := file.readline(log.LONGEST):
                entry: Any = parse_json(line, path)
                if isinstance(entry, dict) and "reward" in entry:
                    return entry
    except InputError:
        return None
    return None


def sampled(objective: Any) -> Iterator[str]:
    """A line for some answers of the last iteration: the end of the prompt, the answer and its reward."""
    for answer in objective.answers(ANSWERS):
        yield _line(answer.prompt, answer.response, answer.reward)


def _line(prompt: Any, response: str, reward: float) -> str:
    return f"{shortened(prompt.text, from_end=True)} → {shortened(response)}   (reward {reward:.4g})"


def answers(model: GPT, objective: Any, prompts: Sequence[Any]) -> Iterator[str]:
    """A line for each prompt: the model's most likely answer, and its reward."""
    from ..tuning import rewarded

    texts = _responses(model, objective, prompts, 0.0)
    for prompt, text, reward in zip(prompts, texts, rewarded(objective.reward, prompts, texts)):
        yield _line(prompt, text, reward)


def held_out(model: GPT, objective: Any, prompts: Sequence[Any]) -> HeldOut | None:
    """What the model's responses to held-out prompts are worth; None where none is held out."""
    from ..tuning import rewarded

    if not objective.recipe["held_out"]:
        return None
    some = prompts[:MOST]
    texts = (_responses(model, objective, some, t) for t in (objective.temperature, 0.0))
    return HeldOut(*(float(rewarded(objective.reward, some, each).mean()) for each in texts))


def _responses(model: GPT, objective: Any, prompts: Sequence[Any], temperature: float) -> list[str]:
    from ..data import template_from_state
    from ..tuning import respond

    assert model.template is not None, "it is tuned on prompts in a template"
    return respond(
        model,
        [prompt.conversation for prompt in prompts],
        template_from_state(model.template),
        max_new_tokens=objective.max_new_tokens,
        temperature=temperature,
        seed=objective.training.seed,
    )
