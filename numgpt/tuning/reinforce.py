"""Reinforcement: a policy answers prompts, its answers are rewarded, and the better ones become likelier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Training
from ..arguments import Count, Size, checked
from ..errors import InputError
from ..layers.policy_losses import policy_logprobs
from ..model import differentiable
from ..model.gpt import GPT
from ..training.objective import Batch
from . import order
from .ends import Ending
from .reward_functions import rewarded
from .rollouts import Rollout, Scored, Written, drawn, joined, rows_of, sample, written
from .sharing import Sharing

Floats = NDArray[Any]
Rewards = Callable[[Sequence[Any], Sequence[str]], Any]


class Part(NamedTuple):
    """The rows of a rollout in one micro-batch, arrays (N, T) as the update reads them.

    old, fixed: the log-probabilities of the targets under the policy that sampled them, and under the fixed
    model. old is None until the update's own forward tells them, where that comes before any step.
    values: what a critic expected at each place, or None.
    """

    rows: slice
    scored: Scored
    old: Floats | None
    fixed: Floats
    values: Floats | None = None

    @property
    def log_ratio(self) -> NDArray[np.float64]:
        """k1 of each token: how much likelier it is to the policy than to the fixed model."""
        return self.known.astype(np.float64) - self.fixed

    @property
    def known(self) -> Floats:
        """The log-probabilities of the policy that sampled, once they are known."""
        assert self.old is not None, "the update has not told them yet"
        return self.old


class Iteration(NamedTuple):
    """What one iteration trains on: a rollout, its micro-batches, and the advantage of each token."""

    number: int
    prompts: NDArray[np.int64]
    responses: list[str]
    rollout: Rollout
    parts: list[Part]
    batches: list[Batch]


class Answer(NamedTuple):
    """A sampled answer, for people to read."""

    prompt: Any
    response: str
    reward: float


class Reinforcement:
    """What all objectives of reinforcement share: iterations of sampling, scoring and some updates.

    An iteration begins with the policy as it is: prompts are drawn, each is answered group times, the answers
    are rewarded and scored in the very micro-batches of the update. Then come epochs · batches steps of the
    Trainer. All of it depends on the seed and the iteration alone, so that a run goes on from the last one.

    Where there is one step and nothing needs the policy's log-probabilities before it, no forward is made for
    them: those of the update's own, which that step begins with, are the same to the bit.
    """

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Any],
        reward: Rewards,
        training: Training,
        fixed: Any,
        *,
        template: Any,
        group: int,
        max_new_tokens: int,
        temperature: float,
        beta: float,
        epochs: int,
        batches: int,
        missing_end: float | None,
        source: str,
        words: tuple[Any, ...],
    ) -> None:
        who = type(self).__name__
        tokenizer = model.tokenizer
        if tokenizer is None:
            raise InputError(f"{who}: the model has no tokenizer, expected one: set model.tokenizer")
        if model.config.dropout:
            raise InputError(
                f"{who}: the model has dropout {model.config.dropout}, expected 0: else scoring and update"
                " would see two policies"
            )
        if not prompts:
            raise InputError(f"{who}: there is no prompt, expected some")
        if max_new_tokens > model.config.block_size:
            raise InputError(
                f"{who}: max_new_tokens is {max_new_tokens:,}, expected at most block_size"
                f" {model.config.block_size:,}: a prompt stands before a response"
            )
        self.model, self.prompts, self.reward, self.training = model, list(prompts), reward, training
        self.fixed, self.temperature, self.group = fixed, temperature, group
        self.max_new_tokens, self.missing_end = max_new_tokens, missing_end
        self.beta, self.epochs, self.batches = beta, epochs, batches
        self.end = template.end_for(tokenizer)
        self.ids = [self._ids(template, prompt) for prompt in self.prompts]
        self.source = source
        self.recipe: dict[str, Any] = {}
        words = who, group, max_new_tokens, temperature, beta, epochs, batches, missing_end, *words
        self.digest = order.digest(words, self.ids)
        self.sharing: Sharing | None = None  # where several processes work on the run
        self.iteration: Iteration | None = None
        self.measures: dict[str, float]  # of an iteration, for the log
        self.clipped: list[tuple[float, float]] = []  # (how many tokens were clipped, of how many), a batch
        self.at = 0  # the step whose batch was drawn last

    def _ids(self, template: Any, prompt: Any) -> NDArray[np.int64]:
        """A prompt in tokens; InputError where a response would not fit behind it."""
        ids: NDArray[np.int64] = np.asarray(template.encode_prompt(prompt.conversation, self.model.tokenizer))
        room = self.model.config.block_size + 1 - self.max_new_tokens
        if not 0 < len(ids) <= room:
            raise InputError(
                f"{prompt.place}: the prompt has {len(ids):,} tokens, expected 1 to {room:,}, so that a"
                f" response of {self.max_new_tokens:,} fits into block_size"
                f" {self.model.config.block_size:,}: cut it, or lower max_new_tokens"
            )
        return ids

    @property
    def size(self) -> int:
        """How many items an epoch has: what batch_size counts."""
        return len(self.prompts)

    @property
    def per_iteration(self) -> int:
        """The steps of an iteration."""
        return self.epochs * self.batches

    @checked
    def batch(self, step: Count, n: Count) -> Batch:
        """A micro-batch of a step; the first of an iteration samples, rewards and scores them all."""
        number, place = divmod(step, self.per_iteration)
        if n >= self.training.accumulate:
            raise InputError(
                f"{type(self).__name__}: batch {n} is not there, expected less than accumulate,"
                f" {self.training.accumulate}"
            )
        if self.iteration is None or self.iteration.number != number:
            if place:
                raise InputError(
                    f"{type(self).__name__}: step {step} lies within iteration {number}, whose responses were"
                    f" sampled before it, expected its first step, {step - place}"
                )
            self.iteration = self._begun(number)
        if n == 0 or step != self.at:  # of several processes all but one begin with a later batch
            self.clipped, self.at = [], step
        return self.iteration.batches[place % self.batches * self.training.accumulate + n]

    def _begun(self, number: int) -> Iteration:
        """Sample, reward and score."""
        t = self.training
        places = [(number * self.batches + b, n) for b in range(self.batches) for n in range(t.accumulate)]
        items = np.concatenate([order.drawn(len(self.prompts), t, *place) for place in places])
        assert self.model.tokenizer is not None, "refused at first"
        ending = Ending(self.model.tokenizer, self.end)
        ids = [self.ids[item] for item in items]
        rollout = self._sampled(ids, ending, number)
        responses = _texts(ending, rollout)
        asked = [self.prompts[item] for item in np.repeat(items, self.group)]
        rollout = rollout._replace(reward=self._rewards(asked, responses, rollout.ended))
        parts = self._parts(rollout)
        begun = Iteration(number, items, responses, rollout, parts, [])
        of_tokens = self._advantages(begun)
        if not self._scores_late:
            self._measure(begun)
        batches = [self._batch(*given) for given in zip(parts, of_tokens)]
        return begun._replace(batches=batches)

    def _sampled(self, ids: Sequence[Any], ending: Ending, number: int) -> Rollout:
        """What the policy answers; of several processes each answers the prompts of its own micro-batches."""
        t, sharing = self.training, self.sharing
        how: dict[str, Any] = {"group": self.group, "temperature": self.temperature}
        if sharing is None:
            how |= {"max_new_tokens": self.max_new_tokens, "seed": t.seed, "iteration": number}
            return sample(self.model, ids, self.end, **how)
        draws = drawn(t.seed, number, len(ids) * self.group, self.max_new_tokens)
        parts: list[Written | None] = []
        for n, b in enumerate(range(0, len(ids), t.batch_size)):
            is_own = sharing.owner(n, t.accumulate) == sharing.rank
            some, its_draws = ids[b : b + t.batch_size], draws[b * self.group :]
            parts.append(written(self.model, some, ending, draws=its_draws, **how) if is_own else None)
        rows = t.batch_size * self.group
        columns = []
        for k, width in enumerate((self.max_new_tokens, 1, 1)):
            shapes = [(rows, width)] * len(parts)
            columns.append(sharing.gathered([p and p[k] for p in parts], shapes, t.accumulate))
        return joined(ids, self.group, [Written(a, b[:, 0], c[:, 0]) for a, b, c in zip(*columns)])

    def _parts(self, rollout: Rollout) -> list[Part]:
        """The micro-batches, scored; of several processes each scores its own."""
        t, sharing = self.training, self.sharing
        size = t.batch_size * self.group
        rows = [slice(b, b + size) for b in range(0, len(rollout.first), size)]
        if sharing is None:
            return [self._scored(rollout, some) for some in rows]
        owners = [sharing.owner(n, t.accumulate) for n in range(len(rows))]
        parts = [self._scored(rollout, r) if o == sharing.rank else None for o, r in zip(owners, rows)]
        pairs = zip(parts, rows)
        scored = [rows_of(rollout, r, self._shares) if p is None else p.scored for p, r in pairs]
        shapes = [one.targets.shape for one in scored]
        nothing: list[Any] = [None] * len(rows)
        known: list[Sequence[Any]] = []
        for name in ("old", "fixed", "values"):
            given = [None if part is None else getattr(part, name) for part in parts]
            is_there = any(one is not None for one in given)
            known.append(sharing.gathered(given, shapes, t.accumulate) if is_there else nothing)
        return [Part(*given) for given in zip(rows, scored, *known)]

    @checked
    def share(self, rank: Count, size: Size, gather: Callable[[Any], Any]) -> None:
        """Work as one of several processes that share each step's micro-batches.

        Each samples and scores its own, and gather gives all arrays to all. The reward is asked by every one
        of them for all answers, since it may compare them.
        """
        self.sharing = Sharing(rank, size, gather)

    @property
    def _scores_late(self) -> bool:
        """Whether the update's own forward tells the policy's log-probabilities: where it has all of them."""
        return self._waits and self.sharing is None

    def _rewards(self, asked: Sequence[Any], responses: Sequence[str], ended: Any) -> NDArray[np.float64]:
        """The reward of each response, checked; of one without its end, what is said of those."""
        given = rewarded(self.reward, asked, responses)
        return given if self.missing_end is None else np.where(ended, given, self.missing_end)

    def _scored(self, rollout: Rollout, rows: slice) -> Part:
        """A micro-batch with log-probabilities, computed in its own shape."""
        scored = rows_of(rollout, rows, self._shares)
        old, values = (None, None) if self._scores_late else self._of_policy(scored)
        return Part(rows, scored, old, self._logp(self.fixed, scored), values)

    @property
    def _waits(self) -> bool:
        """Whether the policy's log-probabilities come with the update's own forward, before its only step."""
        return False

    @property
    def _shares(self) -> bool:
        """Whether two responses to a prompt may share a row."""
        return False

    def _of_policy(self, scored: Scored) -> tuple[Floats, Floats | None]:
        """The policy's log-probabilities, and what a critic expects, if there is one."""
        return self._logp(self.model, scored), None

    def _logp(self, model: Any, scored: Scored) -> Floats:
        layer = policy_logprobs(self.temperature)
        tokens, targets, places, visibility = scored.read()
        logp = differentiable.value(model, layer, (tokens, targets, places), visibility=visibility)
        return np.array(engine.home(logp))

    def _advantages(self, begun: Iteration) -> list[Any]:
        """What the update has to know of each micro-batch's tokens, as _batch takes it."""
        raise NotImplementedError

    def _batch(self, part: Part, given: Any) -> Batch:
        """A micro-batch as the Trainer takes it."""
        raise NotImplementedError

    def _tell(self, part: Part, clip: float, clip_high: float) -> Callable[..., None]:
        """A function that is told the log-probabilities of an update's forward.

        Before the first step of an iteration they must be those of scoring to the bit, which shows that one
        policy sampled, scored and is updated. Where nothing was scored before, they become the old ones.
        """

        def told(logp: Any, *_: Any) -> None:
            now = engine.home(logp).real
            if part.old is None:
                self._file(part._replace(old=np.array(now)))
            old = now if part.old is None else part.old
            number, place = divmod(self.at, self.per_iteration)
            if place == 0 and not np.array_equal(now, old, equal_nan=True):
                raise ArithmeticError(
                    f"iteration {number}: the update's forward differs from scoring by"
                    f" {abs(now - old).max():.1e} nats before the first step, expected 0: a layer draws at"
                    " random, or depends on more than its batch"
                )
            counts = part.scored.targets >= 0
            ratio = np.exp((now - old)[counts], dtype=np.float64)
            out = (ratio > 1 + clip_high) | (ratio < 1 - clip)
            self.clipped.append((float(out.sum()), float(counts.sum())))

        return told

    def _file(self, part: Part) -> None:
        """A micro-batch whose log-probabilities are known now; with the last of them come the measures."""
        assert self.iteration is not None, "it gave the batch"
        parts = self.iteration.parts
        parts[part.rows.start // (part.rows.stop - part.rows.start)] = part
        if all(each.old is not None for each in parts):
            self._measure(self.iteration)

    def _measure(self, begun: Iteration) -> None:
        """Numbers of an iteration for the log."""
        rollout = begun.rollout
        reward, weights = rollout.reward, [part.scored.weights for part in begun.parts]
        apart = [float((part.log_ratio * w).sum()) for part, w in zip(begun.parts, weights)]
        surprise = [-float((part.known * w).sum(dtype=np.float64)) for part, w in zip(begun.parts, weights)]
        by_prompt = reward.reshape(-1, self.group)
        self.measures = {
            "reward": float(reward.mean()),
            "reward_std": float(reward.std()),
            "kl": sum(apart) / len(reward),
            "entropy": sum(surprise) / float(rollout.length.sum()),
            "length": float(rollout.length.mean()),
            "ended": float(rollout.ended.mean()),
            "distinct": len(set(begun.responses)) / len(begun.responses),
        }
        if self.group > 1:
            self.measures["no_signal"] = float((by_prompt == by_prompt[:, :1]).all(1).mean())

    def told(self) -> dict[str, float]:
        """More for the log: of an iteration at its first step, of the update at each."""
        counted = np.array(self.clipped, np.float64)
        over, of = (counted if self.sharing is None else self.sharing.gather(counted)).sum(0).tolist()
        first = self.at % self.per_iteration == 0
        return (self.measures if first else {}) | {"clip_fraction": over / of}

    @checked
    def answers(self, most: Count = 4) -> list[Answer]:
        """Some sampled answers of the last iteration, each to another prompt."""
        if self.iteration is None:
            return []
        rows = range(0, len(self.iteration.responses), self.group)
        return [self._answer(self.iteration, row) for row in rows[:most]]

    def _answer(self, begun: Iteration, row: int) -> Answer:
        prompt = self.prompts[begun.prompts[row // self.group]]
        return Answer(prompt, begun.responses[row], float(begun.rollout.reward[row]))


def _texts(ending: Ending, rollout: Rollout) -> list[str]:
    """The text of each response; many are alike, and are read once."""
    known: dict[bytes, str] = {}
    texts = []
    for ids in rollout.responses():
        data = ids.tobytes()
        if data not in known:
            known[data] = ending.text(ids)
        texts.append(known[data])
    return texts
