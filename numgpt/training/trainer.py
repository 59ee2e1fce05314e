"""The training loop: evaluate, log, save, resume."""

import contextlib
import dataclasses
import json
import signal
import threading
import time
from pathlib import Path

import numpy as np

from .. import engine
from ..data.corpus import batch, check_length
from ..errors import InputError
from ..interchange import checkpoint
from ..storage import atomic
from .optim import AdamW, learning_rate

SHOWN = 10  # steps on the GPU between two looks at their losses, each of which waits for the GPU


class NotFinite(ArithmeticError):
    """The loss or a gradient is not finite."""


class Trainer:
    """A run: a model, its data, its settings and the folder that holds last/, best/ and log.jsonl.

    model: a GPT. corpus: a data.Corpus. training: a Training. out: the run's folder, or None to keep nothing.
    Everything random depends on the seed and the step alone, so a resumed run ends with the bits of one that
    ran through.
    """

    def __init__(self, model, corpus, training, out=None):
        check_length(corpus.train, model.config.block_size, "training")
        check_length(corpus.held_out, model.config.block_size, "held-out")
        self.model, self.corpus, self.training = model, corpus, training
        self.out = None if out is None else Path(out)
        t = training
        self.optimizer = AdamW(model, (t.beta1, t.beta2), t.eps, t.weight_decay, t.clip)
        self.grads = model.params.like()
        self.updates, self.best, self.held_out = 0, None, None
        self.saved, self.stopped = None, False

    def run(self, progress=None):
        """Train to the last step, or until SIGINT or SIGTERM asks to stop; a second one interrupts at once.

        progress: an object with update(trainer, entry) that is told each log entry.
        """
        t = self.training
        with self._log() as log, self._signals():
            if self.updates == 0:
                self._note(log, progress, self.evaluate())
                self.save("last")
            waiting = []
            while self.updates < t.steps and not self.stopped:
                waiting.append(self.step())
                done = self.updates == t.steps
                evaluates, saves = (self.updates % n == 0 or done for n in (t.eval_interval, t.save_interval))
                if len(waiting) == (SHOWN if self._on_gpu() else 1) or evaluates or saves:
                    self._note(log, progress, *self._fetched(waiting))
                    waiting = []
                if evaluates:
                    self._note(log, progress, self.evaluate())
                if saves:
                    self.save("last")
            self._note(log, progress, *self._fetched(waiting))
            if self.saved != self.updates:
                self.save("last")

    def step(self):
        """One update of the parameters; returns its log entry.

        On the GPU its loss and norm are arrays () that lie there: nothing waits for them until they are
        looked at.
        """
        t, start = self.training, time.perf_counter()
        lr, i = learning_rate(self.updates, t), self.updates
        batches = [
            batch(self.corpus.train, self.model.config.block_size, t.batch_size, t.seed, "train", i, n)
            for n in range(t.accumulate)
        ]
        count = sum(int((y >= 0).sum()) for _, y in batches)
        loss = 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is looked for by name
            for n, (x, y) in enumerate(batches):
                part, _ = self.model.loss_and_grads(x, y, step=(i, n), count=count, out=self.grads, add=n > 0)
                loss += part.astype(np.float64) if self._on_gpu() else float(part)
            norm = self.optimizer.norm(self.grads)
            if not self._on_gpu():
                self._check_finite(loss, norm, batches, i)
            self.optimizer.step(self.grads, lr, norm)
        self.updates += 1
        entry, tokens = (
            {"step": self.updates, "loss": loss, "norm": norm, "lr": lr},
            sum(x.size for x, _ in batches),
        )
        if self._on_gpu():
            return entry | {"tokens": tokens, "begun": start}
        return entry | {"tokens_per_s": round(tokens / (time.perf_counter() - start))}

    def evaluate(self):
        """The mean loss on eval_iters held-out batches, the same ones each time; keeps the best model.
        Returns the log entry.
        """
        t, T = self.training, self.model.config.block_size
        with np.errstate(over="ignore", invalid="ignore"):
            losses = [
                self.model.loss(*batch(self.corpus.held_out, T, t.batch_size, t.seed, "held-out", n))
                for n in range(t.eval_iters)
            ]
            losses = [engine.home(loss) for loss in losses]
        self.held_out = float(np.mean(losses, dtype=np.float64))
        if not np.isfinite(self.held_out):
            raise NotFinite(
                f"step {self.updates}: the held-out loss is {self.held_out},"
                f" {self._bad_parameter() or 'all parameters are finite'}: lower --lr"
            )
        if self.best is None or self.held_out < self.best:
            self.best = self.held_out
            self.save("best")
        return {"step": self.updates, "held_out_loss": self.held_out, "best": self.best}

    def save(self, name):
        """Write the model, and as "last" all that the run needs to go on, to out/name. What is not finite is
        not saved.
        """
        if self.out is None:
            return
        if self._bad_parameter():
            raise NotFinite(f"step {self.updates}: {self._bad_parameter()}: lower --lr")
        if name == "best":
            checkpoint.save(self.out / name, self.model)
        else:
            checkpoint.save(self.out / name, self.model, self.optimizer, self.state())
            self.saved = self.updates

    def state(self):
        """What a resumed run has to know besides model and moments, as JSON holds it."""
        return {
            "best": self.best,
            "held_out": self.held_out,
            "source": self.corpus.source,
            "recipe": self.corpus.recipe,
            "digest": self.corpus.digest,
            "training": dataclasses.asdict(self.training),
        }

    def resume(self):
        """Go on from out/last, whose model this trainer must have been given."""
        state = checkpoint.load_state(self.out / "last", self.optimizer)
        if state["digest"] != self.corpus.digest:
            raise InputError(
                f"{self.out}: was trained on {state['source']} as it was then, and {self.corpus.source}"
                " differs from it; expected the same text and the same way to prepare it: give the run's own"
                " --data"
            )
        self.best, self.held_out = state["best"], state["held_out"]
        self.updates = self.saved = self.optimizer.steps

    def _on_gpu(self):
        return engine.on_gpu(self.model.params.flat)

    def _fetched(self, entries):
        """Log entries with numbers in them, from the GPU all at once; NotFinite at the first step whose loss
        or norm is not finite.

        The parameters have moved on by then, and what is not finite has spread in them; the checkpoint is as
        it was, since save writes no parameter that is not finite.
        """
        if not entries or not self._on_gpu():
            return entries
        numbers = engine.home(
            np.stack(
                [np.stack([e["loss"].astype(np.float64), e["norm"].astype(np.float64)]) for e in entries]
            )
        )
        rate = sum(e["tokens"] for e in entries) / (
            time.perf_counter() - entries[0]["begun"]
        )  # of them together: a step alone is only asked for
        entries = [
            {"step": e["step"], "loss": loss, "norm": norm, "lr": e["lr"], "tokens_per_s": round(rate)}
            for e, (loss, norm) in zip(entries, numbers.tolist())
        ]
        for e in entries:
            if not (np.isfinite(e["loss"]) and np.isfinite(e["norm"])):
                why = self._bad_parameter() or "the parameters are finite"
                raise NotFinite(
                    f"step {e['step']}: the loss is {e['loss']} and the norm of the gradients {e['norm']}, by"
                    f" step {self.updates} {why}: lower --lr"
                )
        return entries

    def _check_finite(self, loss, norm, batches, i):
        """Raise NotFinite with the first name whose numbers are not finite."""
        if np.isfinite(loss) and np.isfinite(norm):
            return
        if self._bad_parameter():
            raise NotFinite(f"step {i + 1}: {self._bad_parameter()}: lower --lr")
        for n, (x, y) in enumerate(batches):
            with np.errstate(over="ignore", invalid="ignore"):
                record = self.model.record(x, y, step=(i, n))
            for what, arrays in (("value", record.value), ("gradient of", record.grad)):
                for name, array in arrays.items():
                    if not np.isfinite(array).all():
                        raise NotFinite(
                            f"step {i + 1}: the {what} {name} is the first that is not finite, the loss is"
                            f" {loss}: lower --lr, or use --dtype float64"
                        )
        raise NotFinite(
            f"step {i + 1}: the norm of the gradients is {norm}, expected a finite one: lower --lr"
        )

    def _bad_parameter(self):
        bad = self.model.params.first_not_finite()
        return bad and f"the parameter {bad} is not finite"

    @contextlib.contextmanager
    def _log(self):
        """log.jsonl, one line an entry; on resume without the lines that the checkpoint does not know of."""
        if self.out is None:
            yield None
            return
        path = self.out / "log.jsonl"
        self.out.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.updates and path.exists():
            for line in path.read_text("utf-8", errors="replace").splitlines():
                with contextlib.suppress(
                    ValueError, TypeError, KeyError, RecursionError
                ):  # the last line of a killed run may be half there
                    if json.loads(line)["step"] <= self.updates:
                        kept.append(line + "\n")
        atomic.write_file(path, "".join(kept).encode())
        with open(path, "a", encoding="utf-8", buffering=1) as file:
            yield file

    def _note(self, log, progress, *entries):
        for entry in entries:
            if log is not None:
                log.write(json.dumps(entry) + "\n")
            if progress is not None:
                progress.update(self, entry)

    @contextlib.contextmanager
    def _signals(self):
        """Let the first SIGINT or SIGTERM finish the step; signals belong to the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number, frame):
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
