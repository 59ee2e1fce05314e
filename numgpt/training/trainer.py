"""The training loop: evaluate, log, save, resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from os import PathLike
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Training
from ..arguments import checked
from ..data.corpus import Corpus, batch, check_length
from ..errors import InputError
from ..interchange import checkpoint
from ..model.gpt import GPT
from ..storage import locks
from ..storage.atomic import named
from . import agreement, log
from .log import Entry
from .optim import AdamW, learning_rate

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]  # inputs and targets, (B, T) each
PATIENCE = 10  # steps on the GPU between two looks at their losses, each of which waits for the GPU
GROWTH = 1e4  # of the largest |weight| since the start: no training that works comes near it


class NotFinite(ArithmeticError):
    """The loss or a gradient is not finite."""


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
    corpus : Corpus
        As numgpt.prepare makes it.
    training : Training
    out : path, optional
        The run's folder; nothing is kept on disk unless given. A relative path is taken from the working
        folder of this moment, wherever the process goes later.

    Attributes
    ----------
    updates : int
        The steps that are done.
    held_out, best : float or None
        The held-out loss when it was last measured, and the least so far.
    optimizer : AdamW
    stopped : bool
        Whether a signal has asked the last run() to stop.

    Raises
    ------
    InputError
        Where a part of the corpus is too short for one sequence, or its tokens are not the model's.

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
        self, model: GPT, corpus: Corpus, training: Training, out: str | PathLike[str] | None = None
    ) -> None:
        agreement.expect_one_tokenizer(model, corpus)
        check_length(corpus.train, model.config.block_size, "training")
        check_length(corpus.held_out, model.config.block_size, "held-out")
        self.model = model
        self.corpus = corpus
        self.training = training
        self.out = None if out is None else named(out).absolute()
        betas = (training.beta1, training.beta2)
        if not self._on_gpu():
            engine.expect_room("training: gradients and moments", 3 * model.params.flat.nbytes)
        self.optimizer = AdamW(model, betas, training.eps, training.weight_decay, training.clip)
        self.grads = model.params.like()  # one buffer for all steps
        self.updates = 0
        self.best: float | None = None
        self.held_out: float | None = None
        self.saved: int | None = None  # the step of the last checkpoint
        self.stopped = False
        self.torn = False  # whether an update was interrupted: the parameters are of no step then
        self.measured: list[tuple[int, float]] = []  # (step, held-out loss)
        self.largest: float | None = None  # |weight| at the start
        self.warned = False  # that a weight is too large

    @checked
    def run(self, progress: Listener | None = None) -> None:
        """Train to the last step, or until SIGINT or SIGTERM asks to stop; a second one interrupts at once.

        SIGHUP, which a terminal sends when it closes, asks to stop, too, unless nohup has it ignored.

        Parameters
        ----------
        progress : object with update(trainer, entry), optional
            It is told each log entry, a dict; numgpt.training.progress.Progress shows them as a bar.

        Raises
        ------
        NotFinite
            Where the loss, a gradient or a parameter is not finite; it is named.
        InputError
            Where another process trains in the folder, or it holds another run.
        """
        t = self.training
        self.stopped = False
        with self._folder(), self._log() as file, self._signals():
            note = functools.partial(self._note, file, progress)
            if self.updates == 0:
                note(self.evaluate())
                self.save("last")
            unseen: list[Entry] = []
            while self.updates < t.steps and not self.stopped:
                unseen.append(self.step())
                evaluates = self._is_due(t.eval_interval)
                saves = self._is_due(t.save_interval)
                if evaluates or saves or len(unseen) == (PATIENCE if self._on_gpu() else 1):
                    note(*self._fetched(unseen))
                    unseen = []
                if evaluates:
                    note(self.evaluate())
                if saves:
                    self.save("last")
            note(*self._fetched(unseen))
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
        with np.errstate(
            over="ignore", invalid="ignore", under="ignore"
        ):  # what is not finite is looked for by name
            loss = self._loss_and_grads(step)
            norm = self.optimizer.norm(self.grads)
            if not self._on_gpu():
                self._check_finite(loss, norm, step)
            self._update(lr, norm)
        entry = {"step": self.updates, "loss": loss, "norm": norm, "lr": lr}
        tokens = self._tokens()
        if self._on_gpu():
            return entry | {"tokens": tokens, "begun": start}
        return entry | {"tokens_per_s": round(tokens / (time.perf_counter() - start))}

    def _update(self, lr: float, norm: Any) -> None:
        """Move the parameters; what interrupts that tears them, but for a refusal, which comes before it."""
        self.torn = True
        try:
            self.optimizer.step(self.grads, lr, norm)
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
        """The mean loss on eval_iters held-out batches, the same ones each time; returns the log entry.

        The model is saved as "best" where none was better before.
        """
        t = self.training
        T = self.model.config.block_size
        losses = []
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for n in range(t.eval_iters):
                x, y = batch(self.corpus.held_out, T, t.batch_size, t.seed, "held-out", n)
                losses.append(self.model.loss(x, y))
            losses = [
                engine.home(loss) for loss in losses
            ]  # after the loop: none waits for the GPU within it
        self.held_out = float(np.mean(losses, dtype=np.float64))
        if not np.isfinite(self.held_out):
            why = self._bad_parameter() or "all parameters are finite"
            raise NotFinite(f"step {self.updates}: the held-out loss is {self.held_out}, {why}: lower --lr")
        if self.best is None or self.held_out < self.best:
            self.best = self.held_out
            self.save("best")
        entry = {"step": self.updates, "held_out_loss": self.held_out, "best": self.best}
        entry["largest_weight"] = self._largest_weight()
        self.measured = [(step, loss) for step, loss in self.measured if step < self.updates]
        self.measured.append((self.updates, self.held_out))
        since = log.overfitting_since(self.measured)
        return entry if since is None else entry | {"overfitting_since": since}

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
        if self.out is None:
            return
        bad = self._bad_parameter()
        if bad:
            raise NotFinite(f"step {self.updates}: {bad}: lower --lr")
        with self._folder():
            if name == "best":
                checkpoint.save(self.out / name, self.model)
            else:
                checkpoint.save(self.out / name, self.model, self.optimizer, self.state())
            if name == "last":
                self.saved = self.updates

    @contextlib.contextmanager
    def _folder(self) -> Iterator[None]:
        """Hold the run's folder against other processes; an error unless its run is the one trained here."""
        if self.out is None:
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
            "source": self.corpus.source,
            "recipe": self.corpus.recipe,
            "digest": self.corpus.digest,
            "training": dataclasses.asdict(self.training),
        }

    def resume(self) -> None:
        """Go on from out/last, whose model this trainer must have been given.

            trainer = numgpt.Trainer(numgpt.GPT.load("run/last"), corpus, training, "run")
            trainer.resume()
            trainer.run()

        A warning names the settings that are not the run's own. More steps are none: so one trains on.

        Raises
        ------
        InputError
            Where there is no checkpoint of a run, or the corpus is not the one that it was trained on.
        """
        if self.out is None:
            raise InputError("Trainer: there is no folder to resume from, expected one: give out")
        last = self.out / "last"
        with locks.held(self.out):
            state = checkpoint.read_state(last)
            if state["digest"] != self.corpus.digest:
                raise InputError(
                    f"{self.out}: was trained on {state['source']} as it was then, and {self.corpus.source}"
                    " differs from it; expected the same text and the same way to prepare it: give the run's"
                    " own --data"
                )
            checkpoint.load_state(last, self.optimizer, self.model)
        self.best = state["best"]
        self.held_out = state["held_out"]
        self.updates = self.saved = self.optimizer.steps
        self.torn = False
        changes = agreement.changes(state["training"], self.training)
        if changes:
            warnings.warn(f"{self.out}: goes on with {', '.join(changes)}", stacklevel=2)

    def __repr__(self) -> str:
        t = self.training
        done = f"step {self.updates:,} of {t.steps:,}"
        best = "" if self.best is None else f", best held-out loss {self.best:.4f}"
        place = "" if self.out is None else f", in {self.out}"
        return f"<Trainer of {self.model.n_params:,} parameters on {self.corpus.source}: {done}{best}{place}>"

    def _on_gpu(self) -> bool:
        return engine.on_gpu(self.model.params.flat)

    def _is_due(self, interval: int) -> bool:
        return self.updates % interval == 0 or self.updates == self.training.steps

    def _batch(self, step: int, n: int) -> Batch:
        """Batch n of a step, drawn by these two and the seed alone."""
        t = self.training
        return batch(self.corpus.train, self.model.config.block_size, t.batch_size, t.seed, "train", step, n)

    def _batches(self, step: int) -> Iterator[Batch]:
        """The batches of a step, each drawn when it is asked for: there may be millions."""
        return (self._batch(step, n) for n in range(self.training.accumulate))

    def _tokens(self) -> int:
        """The tokens of a step, each of which is a target that counts."""
        t = self.training
        return t.accumulate * t.batch_size * self.model.config.block_size

    def _loss_and_grads(self, step: int) -> Any:
        """The mean loss of the targets in all batches; their gradients add up in self.grads."""
        count = self._tokens()  # of all, so that batches weigh by what counts in them
        total: Any = 0.0
        for n, (x, y) in enumerate(self._batches(step)):
            loss, _ = self.model.loss_and_grads(x, y, step=(step, n), count=count, out=self.grads, add=n > 0)
            total += loss.astype(np.float64) if self._on_gpu() else float(loss)
        return total

    def _fetched(self, entries: list[Entry]) -> list[Entry]:
        """Log entries with numbers in them, fetched from the GPU all at once.

        NotFinite at the first step whose loss or norm is not finite. The parameters have moved on by then,
        and what is not finite has spread in them. The checkpoint is as it was: save writes no such parameter.
        """
        if not entries or not self._on_gpu():
            return entries
        pairs = [np.stack([e["loss"].astype(np.float64), e["norm"].astype(np.float64)]) for e in entries]
        numbers = engine.home(np.stack(pairs)).tolist()
        # Of all of them together: a step alone returns as soon as the GPU was asked for it.
        seconds = time.perf_counter() - entries[0]["begun"]
        rate = round(sum(e["tokens"] for e in entries) / seconds)
        fetched = []
        for entry, (loss, norm) in zip(entries, numbers):
            step = entry["step"]
            if not (np.isfinite(loss) and np.isfinite(norm)):
                why = self._bad_parameter() or "the parameters are finite"
                raise NotFinite(
                    f"step {step}: the loss is {loss} and the norm of the gradients {norm}, by step"
                    f" {self.updates} {why}: lower --lr"
                )
            fetched.append(
                {"step": step, "loss": loss, "norm": norm, "lr": entry["lr"], "tokens_per_s": rate}
            )
        return fetched

    def _check_finite(self, loss: Any, norm: Any, step: int) -> None:
        """Raise NotFinite with the first name whose numbers are not finite."""
        if np.isfinite(loss) and np.isfinite(norm):
            return
        bad = self._bad_parameter()
        if bad:
            raise NotFinite(f"step {step + 1}: {bad}: lower --lr")
        for n, (x, y) in enumerate(self._batches(step)):
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                record = self.model.record(x, y, step=(step, n))  # once more, with every name kept
            for what, arrays in (("value", record.value), ("gradient of", record.grad)):
                for name, array in arrays.items():
                    if not np.isfinite(array).all():
                        raise NotFinite(
                            f"step {step + 1}: the {what} {name} is the first that is not finite, the loss is"
                            f" {loss}: lower --lr, or use --dtype float64"
                        )
        raise NotFinite(
            f"step {step + 1}: the norm of the gradients is {norm}, expected a finite one: lower --lr"
        )

    def _bad_parameter(self) -> str | None:
        bad = self.model.params.first_not_finite()
        return None if bad is None else f"the parameter {bad} is not finite"

    @contextlib.contextmanager
    def _log(self) -> Iterator[TextIO | None]:
        """The open log; what a resumed run has to know of the measurements before is taken from it."""
        if self.out is None:
            yield None
            return
        with log.opened(self.out, self.updates) as (file, entries):
            if not self.measured:
                self._remember([entry for entry in entries if "held_out_loss" in entry])
            yield file

    def _remember(self, entries: list[Entry]) -> None:
        """Take over measurements from a log, which may hold anything."""
        numbers = [[e[name] for name in ("step", "held_out_loss")] for e in entries]
        if all(isinstance(n, int | float) for pair in numbers for n in pair):
            self.measured = [(int(step), float(loss)) for step, loss in numbers]
        start = entries[0].get("largest_weight") if entries else None
        if isinstance(start, float) and start > 0:
            self.largest = start

    def _note(self, file: TextIO | None, progress: Listener | None, *entries: Entry) -> None:
        for entry in entries:
            if file is not None:
                log.write(file, entry)
            if progress is not None:
                progress.update(self, entry)

    def _largest_weight(self) -> float:
        """The largest |weight|; a warning once it is far beyond what it was at the start."""
        flat = self.model.params.flat
        largest = float(engine.home(np.maximum(flat.max(), -flat.min())))
        if self.largest is None:
            self.largest = largest
        if largest > GROWTH * self.largest and not self.warned:
            self.warned = True
            warnings.warn(
                f"step {self.updates}: the largest weight is {largest:.3g}, and was {self.largest:.3g} at the"
                " start: such a model has diverged, however its loss looks; lower --lr",
                stacklevel=3,
            )
        return largest

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let the first SIGINT or SIGTERM finish the step, and every SIGHUP: a terminal may send several."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals belong to the main thread
            return
        asked: list[int] = []
        hangup = getattr(signal, "SIGHUP", None)  # None on Windows

        def stop(number: int, frame: Any) -> None:
            if number != hangup:
                if asked:
                    raise KeyboardInterrupt
                asked.append(number)
            self.stopped = True

        numbers = [signal.SIGINT, signal.SIGTERM]
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
            numbers.append(hangup)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
