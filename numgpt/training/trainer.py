"""The training loop: evaluate, log, save, resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Iterator
from os import PathLike
from typing import Any, Protocol, TextIO

import numpy as np

from .. import engine
from ..architecture.config import Training
from ..arguments import Positive, checked
from ..data.corpus import Corpus
from ..errors import InputError
from ..interchange import checkpoint
from ..model.gpt import GPT
from ..storage import locks
from ..storage.atomic import named
from . import agreement, log
from .distribution import Distribution, OneProcess
from .finite import NotFinite, bad_parameter, expect_finite, fetched
from .history import History
from .log import Entry
from .mixed import Mixed
from .objective import (
    Batch,
    Objective,
    Pretraining,
    expect_batch,
    n_routers,
)
from .optim import AdamW, learning_rate
from .optimizer import Optimizer, expect_beginning
from .stopping import on_signal

__all__ = ["Batch", "Listener", "NotFinite", "Trainer"]

PATIENCE = 10  # steps on the GPU between two looks at their losses, each of which waits for the GPU


class Listener(Protocol):
    """Who is told of each log entry, such as progress.Progress."""

    def update(self, trainer: Trainer, entry: Entry) -> None:
        """Called with an entry as soon as it is in the log."""


class Trainer:
    """A run: a model, its data, its settings and the folder that holds last/, best/ and log.jsonl.

    Everything random depends on the seed and the step alone, so a resumed run ends with the bits of one that
    ran through. One that was stopped goes on by another run().

    Parameters
    ----------
    model : GPT
        Its parameters are trained in place. Its tokenizer, if it has one, is the corpus's.
    corpus : Corpus or None
        As numgpt.prepare makes it; None for an objective that brings data of its own.
    training : Training
    out : path, optional
        The run's folder; nothing is kept on disk unless given. A relative path is taken from the working
        folder of this moment, wherever the process goes later.
    objective : object with batch(step, n), optional
        What is minimised, as numgpt.training.objective.Objective says; the next token of the corpus unless
        given.
    optimizer : object with step(grads, lr), state() and load_state(arrays, steps), optional
        As numgpt.training.optimizer.Optimizer says; AdamW with the settings of training unless given.
    distribution : object, optional
        Who works on the run, as numgpt.training.distribution.Distribution says; this process alone unless
        given.

    Attributes
    ----------
    updates : int
        The steps that are done.
    held_out, best : float or None
        The held-out loss when it was last measured, and the least so far.
    objective, optimizer
        Those given, or those of pre-training.
    stopped, out_of_time : bool
        Whether a signal has asked the last run() to stop, and whether its time was over.

    Raises
    ------
    InputError
        Where a part of the corpus is too short for one sequence, or its tokens are not the model's; where an
        objective gives no batch, a count that is not above 0, or a loss that is no single number.

    Examples
    --------
    >>> import numgpt, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "text.txt")
    ...     characters = path.write_text("she sells sea shells by the sea shore. " * 40)
    ...     corpus = numgpt.prepare(path, split="tail")
    >>> V = corpus.tokenizer.vocab_size
    >>> config = numgpt.Config(vocab_size=V, block_size=16, n_layer=1, n_head=2, n_embd=16)
    >>> model = numgpt.GPT(config, seed=0, tokenizer=corpus.tokenizer)
    >>> trainer = numgpt.Trainer(model, corpus, numgpt.Training(steps=40, lr=1e-2, warmup=5, eval_iters=2))
    >>> trainer.run()
    >>> trainer.updates, trainer.best < 2.0
    (40, True)
    """

    @checked
    def __init__(
        self,
        model: GPT,
        corpus: Corpus | None,
        training: Training,
        out: str | PathLike[str] | None = None,
        objective: Objective | None = None,
        optimizer: Optimizer | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        if corpus is not None:
            agreement.expect_one_tokenizer(model, corpus)
        if objective is None:
            if corpus is None:
                raise InputError(
                    "Trainer: there is neither a corpus nor an objective, expected one of them: give a corpus"
                    " as numgpt.prepare makes it"
                )
            objective = Pretraining(corpus, training, model.config.block_size, n_routers(model.config))
        agreement.expect_trainable(model, optimizer)
        self.mixed = Mixed(training, model.params.dtype)
        self.model = model
        self.corpus = corpus
        self.training = training
        self.objective = objective
        self.per_iteration = agreement.steps_of_iteration(objective, training)
        self.identity = agreement.identity(objective, corpus)
        self.out = None if out is None else named(out).absolute()
        if not engine.on_gpu(model.params.flat):
            moments = 2 if optimizer is None else 0
            engine.expect_room("training: gradients and moments", (1 + moments) * model.params.flat.nbytes)
        self.optimizer: Any = _adamw(model, training) if optimizer is None else optimizer
        expect_beginning(self.optimizer, model.params)
        self.distribution: Distribution = OneProcess() if distribution is None else distribution
        facts = {"settings": dataclasses.asdict(training), "data": self.identity["digest"]}
        self.grads = self.distribution.begin(model, self.optimizer, training.accumulate, facts)
        self.updates = 0
        self.best: float | None = None
        self.held_out: float | None = None
        self.saved: int | None = None  # the step of the last checkpoint
        self.stopped = self.out_of_time = False
        self.torn = False  # whether an update was interrupted: the parameters are of no step then
        self.history = History()

    @checked
    def run(self, progress: Listener | None = None, time_limit: Positive | None = None) -> None:
        """Train to the last step, or until SIGINT or SIGTERM asks to stop; a second one interrupts at once.

        SIGHUP, which a terminal sends when it closes, asks to stop, too, unless nohup has it ignored.
        Steps that belong together, as those that learn from one rollout, are finished and saved as one.

        Parameters
        ----------
        progress : object with update(trainer, entry), optional
            It is told each log entry, a dict; numgpt.training.progress.Progress shows them as a bar.
        time_limit : float, optional
            Seconds from now, after which the run stops: the step is finished, the held-out loss measured, and
            the run saved.

        Raises
        ------
        NotFinite
            Where the loss, a gradient or a parameter is not finite; it is named.
        InputError
            Where another process trains in the folder, or it holds another run.
        """
        t = self.training
        self.stopped = self.out_of_time = False
        deadline = None if time_limit is None else time.monotonic() + time_limit
        with self._folder(), self._log() as file, on_signal(self._stop):
            note = functools.partial(self._note, file, progress)
            measures = hasattr(self.objective, "held_out")
            if self.updates == 0:
                note(*([self.evaluate()] if measures else []))
                self.save("last")
            unseen: list[Entry] = []
            while self.updates < t.steps and not self._is_over():
                unseen.append(self.step())
                if deadline is not None:
                    self.out_of_time = self.distribution.agreed(time.monotonic() >= deadline)
                evaluates = measures and self._is_due(t.eval_interval)
                saves = self._is_due(t.save_interval)
                if evaluates or saves or len(unseen) == (PATIENCE if self._on_gpu() else 1):
                    note(*fetched(unseen, self.model.params, self.updates))
                    unseen = []
                if evaluates:
                    note(self.evaluate())
                if saves:
                    self.save("last")
            note(*fetched(unseen, self.model.params, self.updates))
            if self.saved != self.updates:
                self.save("last")

    def step(self) -> Entry:
        """One update of the parameters; returns its log entry.

        On the GPU its loss and norm are arrays () that lie there: nothing waits until somebody looks.
        """
        self._expect_whole()
        start = time.perf_counter()
        step = self.updates
        lr = learning_rate(step, self.training)
        queued = self._on_gpu() and not self.mixed.scales  # then nothing is looked at yet
        with self.mixed.computing():
            loss, count = self.distribution.loss_and_grads(
                *(self.model, self.objective, step, self.training.accumulate, self.grads, self.mixed.scale)
            )
            norm = self.distribution.norm(self.optimizer, self.grads)
            entry = {"step": step + 1, "loss": loss, "norm": norm, "lr": lr, "tokens": round(count)}
            if self.mixed.skips(entry):
                self.updates += 1
            else:
                if not queued:
                    expect_finite(self.model, self._batches(step), step, entry["loss"], entry["norm"])
                self._update(lr, entry["norm"])
        if hasattr(self.objective, "told"):
            entry |= self.objective.told()
        if queued:
            return entry | {"begun": start}
        return entry | {"tokens_per_s": round(count / (time.perf_counter() - start))}

    def _update(self, lr: float, norm: Any) -> None:
        """Move the parameters; what interrupts that tears them, but for a refusal, which comes before it."""
        self.torn = True
        key = None if self.training.masters else (self.training.seed, self.updates)
        try:
            self.distribution.update(self.optimizer, self.grads, lr, norm, key)
        except InputError:
            self.torn = False
            raise
        self.updates += 1
        self.torn = False

    def _expect_whole(self) -> None:
        """Raise InputError where an update was interrupted."""
        if self.torn:
            raise InputError(
                f"Trainer: was interrupted within update {self.updates + 1}, expected parameters of one step:"
                " go on from the last checkpoint, with a new Trainer of GPT.load(…) and resume()"
            )

    def evaluate(self) -> Entry:
        """The mean loss on the held-out batches, the same ones each time; returns the log entry.

        The model is saved as "best" where none was better before.
        """
        if not hasattr(self.objective, "held_out"):
            raise InputError(
                f"Trainer: {type(self.objective).__name__} has no held_out(), expected it to give the batches"
                " of a held-out loss"
            )
        with self.mixed.computing():
            self.held_out = self.distribution.held_out_loss(self.model, self.objective)
        if not np.isfinite(self.held_out):
            why = bad_parameter(self.model.params) or "all parameters are finite"
            raise NotFinite(f"step {self.updates}: the held-out loss is {self.held_out}, {why}: lower --lr")
        if self.best is None or self.held_out < self.best:
            self.best = self.held_out
            self.save("best")
        entry = {"step": self.updates, "held_out_loss": self.held_out, "best": self.best}
        entry["largest_weight"] = self.history.largest_weight(self.updates, self.model.params)
        return entry | self.history.add(self.updates, self.held_out)

    @checked
    def save(self, name: str) -> None:
        """Write a checkpoint to out/name, or nothing where the run has no folder.

        "last" is where the run goes on from, and "best" is the model alone. A checkpoint of another name is
        one to keep, for GPT.load: the run neither reads it nor writes over it. It has all that a run needs to
        go on; copied to last/ in a new folder, it is the beginning of another one.

        A model that is not finite is not saved, so the checkpoint stays what it was.

        Parameters
        ----------
        name : "last", "best" or a name of one's own
            Up to 100 of A-Z, a-z, 0-9, _, - and . such as "step-1000".

        Raises
        ------
        NotFinite
            Where a parameter is not finite; it is named.
        InputError
            For another name, and where the folder holds another run or is in use.
        """
        agreement.expect_name(name)
        self._expect_whole()
        if name != "best" and not self._is_between():
            raise InputError(
                f"Trainer.save: update {self.updates} lies within an iteration of {self.per_iteration}, from"
                " which no run can go on, expected its end: save after further steps"
            )
        if self.out is None:
            return
        bad = bad_parameter(self.model.params)
        if bad:
            raise NotFinite(f"step {self.updates}: {bad}: lower --lr")
        optimizer = None if name == "best" else self.distribution.to_save(self.optimizer)
        if self.distribution.is_first:
            with self._folder():
                state = None if name == "best" else self.state() | {"updates": self.updates}
                checkpoint.save(self.out / name, self.model, optimizer, state)
        if name == "last":
            self.saved = self.updates

    @contextlib.contextmanager
    def _folder(self) -> Iterator[None]:
        """Hold the run's folder against other processes; an error unless its run is the one trained here."""
        if self.out is None or not self.distribution.is_first:
            yield
            return
        last = self.out / "last"
        with locks.held(self.out):
            stored = checkpoint.read_state(last)["updates"] if checkpoint.is_checkpoint(last) else None
            if stored is not None and stored != self.saved:
                raise InputError(
                    f"{self.out}: holds a run at step {stored}, from which this one does not go on, expected"
                    " its own or a new folder: choose another out, or go on from there by resume()"
                )
            yield

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know besides model and moments, as JSON holds it."""
        return {
            "best": self.best,
            "held_out": self.held_out,
            **self.identity,
            "training": dataclasses.asdict(self.training),
            **agreement.moving(self.objective),
            **self.mixed.state(self.updates),
        } | agreement.unusual(self.objective, self.optimizer)

    def resume(self) -> None:
        """Go on from out/last, whose model this trainer must have been given.

            trainer = numgpt.Trainer(numgpt.GPT.load("run/last"), corpus, training, "run")
            trainer.resume()
            trainer.run()

        A warning names the settings that are not the run's own. More steps are none: so one trains on.

        Raises
        ------
        InputError
            Where there is no checkpoint of a run, or corpus, objective or optimizer are not those that it was
        trained with.
        """
        if self.out is None:
            raise InputError("Trainer: there is no folder to resume from, expected one: give out")
        last = self.out / "last"
        with locks.held(self.out) if self.distribution.is_first else contextlib.nullcontext():
            state = checkpoint.read_state(last)
            agreement.expect_same_run(self.out, state, self.state())
            agreement.take_over(self.objective, state)
            checkpoint.load_state(last, self.optimizer, self.model)
            self.mixed.load_state(state)
        self.distribution.loaded(self.optimizer)
        self.best = state["best"]
        self.held_out = state["held_out"]
        self.updates = self.saved = state["updates"]
        self.torn = False
        changes = agreement.changes(state["training"], self.training)
        if changes:
            warnings.warn(f"{self.out}: goes on with {', '.join(changes)}", stacklevel=2)

    def __repr__(self) -> str:
        t = self.training
        done = f"step {self.updates:,} of {t.steps:,}"
        best = "" if self.best is None else f", best held-out loss {self.best:.4f}"
        place = "" if self.out is None else f", in {self.out}"
        source = self.identity["source"]
        return f"<Trainer of {self.model.n_params:,} parameters on {source}: {done}{best}{place}>"

    def _on_gpu(self) -> bool:
        return engine.on_gpu(self.model.params.flat)

    def _is_between(self) -> bool:
        """Whether an iteration of the objective is over, and the next one has not begun."""
        return self.updates % self.per_iteration == 0

    def _is_due(self, interval: int) -> bool:
        """Whether a step of the last iteration was to be followed by what comes every so many steps."""
        if not self._is_between():
            return False
        is_last = self.updates == self.training.steps or self.out_of_time
        return is_last or self.updates // interval > (self.updates - self.per_iteration) // interval

    def _batches(self, step: int) -> Iterator[Batch]:
        """The batches of a step, each drawn when it is asked for: there may be millions."""
        for n in range(self.training.accumulate):
            yield expect_batch(self.objective, self.objective.batch(step, n))

    def _stop(self) -> None:
        self.stopped = True

    def _is_over(self) -> bool:
        """Whether the run is to end here although there are steps left; all who work on it agree."""
        is_asked = self.distribution.agreed(self.stopped)
        self.stopped = self.stopped or is_asked
        return self._is_between() and (is_asked or self.out_of_time)

    @contextlib.contextmanager
    def _log(self) -> Iterator[TextIO | None]:
        """The open log; what a resumed run has to know of the measurements before is taken from it."""
        if self.out is None or not self.distribution.is_first:
            yield None
            return
        with log.opened(self.out, self.updates) as (file, entries):
            self.history.take_over(entries)
            yield file

    def _note(self, file: TextIO | None, progress: Listener | None, *entries: Entry) -> None:
        for entry in entries:
            if file is not None:
                log.write(file, entry)
            if progress is not None and self.distribution.is_first:
                progress.update(self, entry)


def _adamw(model: GPT, training: Training) -> AdamW:
    """The optimizer that the settings describe."""
    t = training
    return AdamW(model, (t.beta1, t.beta2), t.eps, t.weight_decay, t.clip)
