"""What a model is and how it is trained: two dataclasses. Presets are data, in presets.py."""

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ..argument_kinds import held, kind_of
from ..errors import InputError
from ..ops.activations import ACTIVATIONS
from ..ops.norms import NORMS
from ..ops.positions import POSITIONS

LARGEST = 2**24  # of any size: far beyond all models, and small enough to count with
LONGEST = 2**53  # steps: what a float can count
DEEPEST = 2**12  # blocks: each has a dozen parameters, whose names are made before a file is looked at

Settings = TypeVar("Settings")


def setting(default: Any, help: str, choices: Collection[str] | None = None, late: bool = False) -> Any:
    """A field with the sentence that --help and the docstring say about it, and the names it may be.

    late: files were written before there was this field, so a file does not name it where it has its default.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "late": late})


def documented(cls: type[Settings]) -> type[Settings]:
    """Write a class's Parameters into its docstring, before the Examples, from its fields' sentences."""
    lines = ["Parameters", "----------"]
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        kind = getattr(f.type, "__name__", str(f.type))
        choices = f", one of {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
        lines += [f"{f.name} : {kind}, default {f.default!r}{choices}", f"    {f.metadata['help']}"]
    before, examples, after = inspect.cleandoc(cls.__doc__ or "").partition("Examples\n")
    cls.__doc__ = before + "\n".join(lines) + "\n\n" + examples + after
    return cls


@documented
@dataclass(frozen=True)
class Config:
    """A model's shape, in the words of GPT-2's configuration and nanoGPT's.

    A value of another type, or out of its range, is an InputError.

    Examples
    --------
    >>> config = Config(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128)
    >>> config.ffn_width
    512
    >>> dataclasses.replace(config, n_layer=8).n_layer
    8
    """

    vocab_size: int = setting(50257, "V, the number of different tokens")
    block_size: int = setting(1024, "context length: the most tokens that the model sees at once")
    n_layer: int = setting(12, "L, the number of blocks")
    n_head: int = setting(12, "H, the number of attention heads")
    n_embd: int = setting(768, "C, the number of channels")
    n_inner: int | None = setting(None, "width of the feed-forward (default: 4 C)")
    bias: bool = setting(True, "biases in linear maps and norms")
    tied: bool = setting(True, "one matrix for embedding and unembedding")
    activation: str = setting(
        "gelu_tanh", "activation of the feed-forward; gelu is the exact (erf) form", ACTIVATIONS
    )
    norm_position: str = setting(
        "pre", "norms before each part, as in GPT-2, or after each sum, as in GPT-1", ("pre", "post")
    )
    dropout: float = setting(0.0, "probability of dropping a value in training")
    layer_norm_epsilon: float = setting(1e-5, "added to the variance in LayerNorm")
    norm: str = setting("layernorm", "which norm", NORMS, late=True)
    positions: str = setting("learned", "how a model knows where a token stands", POSITIONS, late=True)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            low, high = (0, DEEPEST) if name == "n_layer" else (1, LARGEST)
            _expect(self, name, low <= getattr(self, name) <= high, f"{low} to {high:,}")
        _expect(self, "n_inner", self.n_inner is None or 1 <= self.n_inner <= LARGEST, f"1 to {LARGEST:,}")
        _expect(self, "dropout", 0 <= self.dropout < 1, "at least 0 and less than 1")
        epsilon = self.layer_norm_epsilon
        _expect(self, "layer_norm_epsilon", 1e-30 <= epsilon <= 1, "1e-30, which float32 can add, to 1")
        if self.n_embd % self.n_head:
            heads = ", ".join(map(str, _divisors_near(self.n_embd, self.n_head)))
            raise InputError(
                f"config: n_embd {self.n_embd} is not divisible by n_head {self.n_head}, expected a multiple"
                f" of it: choose n_head such as {heads}"
            )

    @property
    def ffn_width(self) -> int:
        """F, the width of the feed-forward."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner


@documented
@dataclass(frozen=True)
class Training:
    """How a model is trained. The defaults are nanoGPT's for a character model on a CPU.

    A value of another type, or out of its range, is an InputError.

    Examples
    --------
    >>> Training(lr=1e-3, steps=500, schedule="linear").final_lr
    0.0001
    """

    batch_size: int = setting(12, "sequences in a batch")
    accumulate: int = setting(1, "batches in a step, weighted by their counted tokens")
    steps: int = setting(2000, "updates of the parameters")
    lr: float = setting(1e-3, "peak learning rate")
    min_lr: float | None = setting(None, "learning rate at the end (default: a tenth of lr)")
    warmup: int = setting(100, "steps over which the learning rate rises")
    schedule: str = setting(
        "cosine", "how the learning rate falls after the warm-up", ("cosine", "linear", "constant")
    )
    beta1: float = setting(0.9, "AdamW's decay of the mean gradient")
    beta2: float = setting(0.99, "AdamW's decay of the mean squared gradient")
    eps: float = setting(1e-8, "added to the denominator in AdamW")
    weight_decay: float = setting(0.1, "decoupled weight decay, of matrices only")
    clip: float = setting(1.0, "largest norm of a step's gradient; 0 turns clipping off")
    eval_interval: int = setting(250, "steps between measurements of the held-out loss")
    eval_iters: int = setting(20, "batches in each measurement")
    save_interval: int = setting(250, "steps between checkpoints")
    seed: int = setting(1337, "seed of initialisation, batches and dropout")

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("batch_size", "accumulate", "eval_interval", "eval_iters", "save_interval"):
            _expect(self, name, 1 <= getattr(self, name) <= LARGEST, f"1 to {LARGEST:,}")
        for name in ("lr", "weight_decay", "clip", "seed"):
            _expect(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("steps", "warmup"):
            _expect(self, name, 0 <= getattr(self, name) <= LONGEST, f"0 or more, up to {LONGEST:,}")
        _expect(self, "min_lr", self.min_lr is None or 0 <= self.min_lr <= self.lr, f"0 to lr {self.lr}")
        for name in ("beta1", "beta2"):
            _expect(self, name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        _expect(self, "eps", self.eps >= 1e-30, "at least 1e-30, which float32 can add")

    @property
    def final_lr(self) -> float:
        """The learning rate at the end."""
        return self.lr / 10 if self.min_lr is None else self.min_lr


def check_fields(settings: Any) -> None:
    """Raise InputError for a field of another type than it says, not finite, or not among its choices.

    NumPy's numbers become Python's: an np.float64 among the settings would turn float32 arrays into float64.
    """
    for f in dataclasses.fields(settings):
        value = held("config", f.name, kind_of(cast(Any, f.type)), getattr(settings, f.name))
        object.__setattr__(settings, f.name, value)
        choices = f.metadata["choices"]
        if choices and value not in choices:
            raise InputError(f"config: {f.name} is {value!r}, expected one of {', '.join(choices)}")


def to_dict(settings: Any) -> dict[str, Any]:
    """What a file holds of settings; from_dict reads it."""
    late = {f.name: f.default for f in dataclasses.fields(settings) if f.metadata["late"]}
    values = vars(settings).items()
    return {name: value for name, value in values if name not in late or value != late[name]}


def from_dict(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
    """A dataclass from what a file holds; an unknown name is an error, not ignored."""
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = set(values) - known
    if unknown:
        raise InputError(
            f"config: unknown field {', '.join(sorted(unknown))}, expected {', '.join(sorted(known))}"
        )
    return cls(**values)


def _divisors_near(n: int, near: int) -> list[int]:
    """Up to three divisors of n close to a number; 1 where none is."""
    nearby = range(max(1, near - 1000), min(n, near + 1000) + 1)  # not all: there may be millions
    divisors = {1, *(d for d in nearby if n % d == 0)}
    return sorted(sorted(divisors, key=lambda d: abs(d - near))[:3])


def _expect(settings: Any, name: str, holds: bool, what: str) -> None:
    if not holds:
        raise InputError(f"config: {name} is {getattr(settings, name)}, expected {what}")
