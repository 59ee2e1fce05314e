"""What a model is and how it is trained: two dataclasses. Presets are data, in presets.py."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..arguments import checked
from ..engine.formats import PRECISIONS
from ..errors import InputError
from ..ops.activations import ACTIVATIONS
from ..ops.norms import NORMS
from ..ops.part_norms import PART_NORMS
from ..ops.positions import POSITIONS
from ..ops.scalings import checked_scaling
from . import by_layer
from .fields import check_fields, documented, expect, frozen, setting

LARGEST = 2**24  # of any size: far beyond all models, and small enough to count with
LONGEST = 2**53  # steps: what a float can count
SCALES = ("embed_scale", "residual_scale", "logit_scale", "attn_scale", "alibi_scale")
DEEPEST = 2**12  # blocks: each has a dozen parameters, whose names are made before a file is looked at


@documented
@dataclasses.dataclass(frozen=True)
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

    __slots__ = ("__dict__", "__weakref__", "_scopes")  # beside the fields, so that vars() is these alone

    vocab_size: int = setting(50257, "V, the number of different tokens")
    block_size: int = setting(
        1024, "context length: the most tokens that learned positions know, and of a sequence in training"
    )
    n_layer: int = setting(12, "L, the number of blocks")
    n_head: int = setting(12, "H, the number of attention heads", by_layer=True)
    n_embd: int = setting(768, "C, the number of channels")
    n_inner: int | None = setting(None, "width of the feed-forward (default: 4 C)", by_layer=True)
    bias: bool = setting(True, "biases in linear maps and norms")
    tied: bool = setting(True, "one matrix for embedding and unembedding")
    activation: str = setting(
        "gelu_tanh",
        "activation of the feed-forward; gelu is the exact (erf) form",
        ACTIVATIONS,
        by_layer=True,
    )
    norm_position: str = setting(
        "pre",
        "where a block's norms stand: pre, before each part, as in GPT-2; post, after each sum, as in GPT-1;"
        " out, after each part; both, before and after it; parallel, one norm of which both parts read;"
        " parallel2, a norm for each of them",
        ("pre", "post", "out", "both", "parallel", "parallel2"),
    )
    dropout: float = setting(0.0, "probability of dropping a value in training")
    layer_norm_epsilon: float = setting(1e-5, "added to the mean of squares in norms", by_layer=True)
    norm: str = setting("layernorm", "which norm", NORMS, late=True, by_layer=True)
    positions: str = setting(
        "learned", "how a model knows where a token stands", POSITIONS, late=True, by_layer=True
    )
    rotary_base: float = setting(
        10000.0, "rotary positions: pair i of R/2 turns by base^(−2i/R) a position", late=True, by_layer=True
    )
    rotary_dim: int | None = setting(
        None, "R, how many channels of a head rotary positions turn (default: all)", late=True, by_layer=True
    )
    rotary_scaling: Mapping[str, Any] | None = setting(
        None,
        "how rotary positions are slowed down for longer texts: a kind and its numbers, such as"
        ' {"kind": "linear", "factor": 4}',
        late=True,
        by_layer=True,
    )
    n_kv_head: int | None = setting(
        None,
        "K, the number of key and value heads, each for H/K query heads (default: H)",
        late=True,
        by_layer=True,
    )
    head_dim: int | None = setting(None, "D, the size of a head (default: C/H)", late=True, by_layer=True)
    window: int | None = setting(
        None,
        "W, how many positions a token attends to, its own included (default: all)",
        late=True,
        by_layer=True,
    )
    biases: str | None = setting(
        None,
        "which biases there are, some of: qkv out mlp norm router head (default: as bias says, none of the"
        " router and the head)",
        late=True,
        by_layer=True,
    )
    softcap: float | None = setting(
        None,
        "scores s of attention become c tanh(s/c) with this c (default: they stay)",
        late=True,
        by_layer=True,
    )
    embed_norm: bool = setting(False, "a norm of the embeddings, before the first block", late=True)
    qk_norm: str = setting(
        "none",
        "a norm of queries and of keys: head, of each head; each, the same with a weight of its own for each;"
        " full, of all heads together",
        ("none", "head", "each", "full"),
        late=True,
        by_layer=True,
    )
    sink: bool = setting(
        False,
        "a learned score of each head that takes a share of its softmax and gives no value",
        late=True,
        by_layer=True,
    )
    attn_scale: float | None = setting(
        None, "factor of the products of queries and keys (default: 1/√D)", late=True, by_layer=True
    )
    alibi_scale: float = setting(1.0, "factor of the slopes of linear biases", late=True, by_layer=True)
    embed_scale: float = setting(1.0, "factor of the embeddings", late=True)
    residual_scale: float = setting(1.0, "factor of what each part adds to the residual stream", late=True)
    logit_scale: float = setting(1.0, "factor of the logits", late=True)
    final_softcap: float | None = setting(
        None, "logits z become c tanh(z/c) with this c (default: they stay)", late=True
    )
    n_expert: int = setting(
        0,
        "E, the number of experts: feed-forwards of which a router chooses some for each token (default: one"
        " feed-forward, no router)",
        late=True,
        by_layer=True,
    )
    n_expert_active: int = setting(2, "A, how many experts compute a token", late=True, by_layer=True)
    router: str = setting(
        "renorm",
        "the weights of the chosen experts: renorm, a softmax over them; raw, their part of one over all",
        ("renorm", "raw"),
        late=True,
        by_layer=True,
    )
    shared_inner: int | None = setting(
        None,
        "width of an expert that computes every token beside the chosen ones (default: none)",
        late=True,
        by_layer=True,
    )
    layers: tuple[Mapping[str, Any], ...] | None = setting(
        None,
        "what differs between layers, a cycle of fields and values, such as"
        ' [{"window": 128}, {}] for a window in every other layer',
        late=True,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        self._check_sizes()
        self._check_heads()
        self._check_experts()
        words = by_layer.bias_words(self.biases, NORMS[self.norm].parameters)
        self._set("biases", words)
        self._check_parts()
        scaling = checked_scaling(self.rotary_scaling, self.rotary_size, "config: rotary_scaling")
        self._set("rotary_scaling", frozen(scaling))
        kinds = by_layer.kinds(self)
        if words and "router" in words.split() and not any(kind.n_expert for kind in kinds):
            expect(self, "biases", False, "no bias of a router, for n_expert is 0")
        if words and self.n_layer == 0 and {*words.split()} & {*by_layer.OF_BLOCKS}:
            expect(self, "biases", False, "no bias of a block, for n_layer is 0")
        self._set("layers", by_layer.as_read(self.layers, kinds))
        scopes = {f"h.{i}.": kinds[i % len(kinds)] for i in range(self.n_layer)}
        self._set("_scopes", MappingProxyType(scopes))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _check_sizes(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            low, high = (0, DEEPEST) if name == "n_layer" else (1, LARGEST)
            expect(self, name, low <= getattr(self, name) <= high, f"{low} to {high:,}")
        for name in ("n_inner", "head_dim", "window", "shared_inner"):
            value = getattr(self, name)
            expect(self, name, value is None or 1 <= value <= LARGEST, f"1 to {LARGEST:,}")
        expect(self, "dropout", 0 <= self.dropout < 1, "at least 0 and less than 1")
        epsilon = self.layer_norm_epsilon
        expect(self, "layer_norm_epsilon", 1e-30 <= epsilon <= 1, "1e-30, which float32 can add, to 1")
        for name in ("softcap", "final_softcap"):
            cap = getattr(self, name)
            expect(self, name, cap is None or cap >= 1e-30, "more than 0, at least 1e-30")
        for name in SCALES:
            scale = getattr(self, name)
            expect(self, name, scale is None or 1e-30 <= scale <= 1e30, "more than 0, from 1e-30 to 1e30")
        expect(self, "rotary_base", 1 < self.rotary_base <= 1e30, "more than 1, up to 1e30")

    def _check_parts(self) -> None:
        """What a setting needs of another: a norm for queries and keys, a head of its own for a bias."""
        if self.qk_norm == "each":
            expect(self, "norm", self.norm == "layernorm", "layernorm, for qk_norm is each")
        if self.qk_norm != "none":
            expect(
                self, "norm", self.norm in PART_NORMS, f"{' or '.join(PART_NORMS)}, for there is a qk_norm"
            )
        if self.tied and self.has_bias("head"):
            expect(
                self, "biases", False, "no bias of the head, which is tied to the embedding: or tied false"
            )

    def _check_heads(self) -> None:
        H, K = self.n_head, self.kv_heads
        if self.head_dim is None and self.n_embd % H:
            heads = ", ".join(map(str, _divisors_near(self.n_embd, H)))
            raise InputError(
                f"config: n_embd {self.n_embd} is not divisible by n_head {H}, expected a multiple"
                f" of it: choose n_head such as {heads}, or give head_dim"
            )
        if not 1 <= K <= H or H % K:
            groups = ", ".join(map(str, _divisors_near(H, min(max(K, 1), H))))
            raise InputError(f"config: n_kv_head is {K}, expected a divisor of n_head {H}: choose {groups}")
        R, D = self.rotary_size, self.head_size
        if self.rotary_dim is not None and (not 2 <= R <= D or R % 2):
            raise InputError(
                f"config: rotary_dim is {R}, expected an even number from 2 to the head's size {D}"
            )
        if self.positions == "rotary" and R % 2:
            made = f"n_embd {self.n_embd} with n_head {H} makes heads of {D}"
            said = made if self.head_dim is None else f"head_dim is {D}"
            raise InputError(
                f"config: {said}, expected an even number, for rotary positions turn pairs: or give"
                " rotary_dim"
            )

    def _check_experts(self) -> None:
        expect(self, "n_expert", 0 <= self.n_expert <= LARGEST, f"0 to {LARGEST:,}")
        most = self.n_expert or LARGEST
        is_active = 1 <= self.n_expert_active <= most
        there_are = f"n_expert {most}: no more than there are" if self.n_expert else f"{most:,}"
        expect(self, "n_expert_active", is_active, f"1 to {there_are}")

    @property
    def mlp(self) -> str:
        """What a block's feed-forward is: dense, experts, or experts with a shared one beside them."""
        if self.n_expert == 0:
            return "dense"
        return "experts" if self.shared_inner is None else "shared"

    @property
    def ffn_width(self) -> int:
        """F, the width of the feed-forward."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def head_size(self) -> int:
        """D, the size of a head."""
        return self.n_embd // self.n_head if self.head_dim is None else self.head_dim

    @property
    def kv_heads(self) -> int:
        """K, the number of key and value heads."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def qkv_width(self) -> int:
        """(H + 2K) D, the width of queries, keys and values side by side."""
        return (self.n_head + 2 * self.kv_heads) * self.head_size

    @property
    def rotary_size(self) -> int:
        """R, how many channels of a head rotary positions turn."""
        return self.head_size if self.rotary_dim is None else self.rotary_dim

    @property
    def has_final_norm(self) -> bool:
        """Whether what the last block gives is normalised: it is where the block has not done it."""
        return self.norm_position != "post"

    @checked
    def has_bias(self, place: str) -> bool:
        """Whether there is a bias at a place: qkv, out, mlp, norm or router of a block, or the head.

        >>> Config(biases="qkv").has_bias("mlp")
        False
        """
        if place not in by_layer.PLACES:
            raise InputError(f"config: {place!r} is no place, expected one of {', '.join(by_layer.PLACES)}")
        if self.biases is None:
            return self.bias and place not in ("router", "head")
        return place in self.biases.split()

    def scopes(self) -> Mapping[str, "Config"]:
        """The scope of each layer, "h.3.", with the Config that the layer has; made once.

        >>> config = Config(n_layer=4, layers=({"window": 128}, {}))
        >>> [kind.window for kind in config.scopes().values()]
        [128, None, 128, None]
        """
        scopes: Mapping[str, Config] = object.__getattribute__(self, "_scopes")
        return scopes

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy makes its scopes anew."""
        return _config, (type(self), vars(self))


def _config(cls: type[Config], values: dict[str, Any]) -> Config:
    return cls(**values)


@documented
@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained. The defaults are nanoGPT's for a character model on a CPU.

    A value of another type, or out of its range, is an InputError.

    Examples
    --------
    >>> Training(lr=1e-3, steps=500, schedule="linear").final_lr
    0.0001
    """

    batch_size: int = setting(12, "sequences in a batch (in tuning: rows, texts, pairs or prompts)")
    accumulate: int = setting(1, "batches in a step, weighted by their counted tokens")
    steps: int = setting(2000, "updates of the parameters")
    lr: float = setting(1e-3, "peak learning rate")
    min_lr: float | None = setting(None, "learning rate at the end (default: a tenth of lr)")
    warmup: int = setting(100, "steps over which the learning rate rises")
    schedule: str = setting(
        "cosine",
        "how the learning rate falls after the warm-up; wsd: only at the end",
        ("cosine", "linear", "constant", "wsd"),
    )
    cooldown: float = setting(
        0.2, "share of the steps over which wsd lets the learning rate fall, in a line", late=True
    )
    optimizer: str = setting(
        "adamw",
        "what moves the parameters; muon: the blocks' matrices by steps of like singular values, the"
        " rest by AdamW",
        ("adamw", "muon"),
        late=True,
    )
    momentum: float = setting(0.95, "Muon's decay of the sum of gradients", late=True)
    beta1: float = setting(0.9, "AdamW's decay of the mean gradient")
    beta2: float = setting(0.99, "AdamW's decay of the mean squared gradient")
    eps: float = setting(1e-8, "added to the denominator in AdamW")
    weight_decay: float = setting(0.1, "decoupled weight decay, of matrices only")
    clip: float = setting(1.0, "largest norm of a step's gradient; 0 turns clipping off")
    precision: str = setting(
        "float32",
        "what products round their operands to, forward and backward; what they add up stays float32, as do"
        " norms, softmax, losses, weights and moments. fp16 scales the loss",
        PRECISIONS,
        late=True,
    )
    masters: bool = setting(
        True,
        "keep the weights in float32; without, in bf16 alone, each step rounds them at random to one of the"
        " two bf16 numbers beside them, which saves no memory: their arrays stay float32",
        late=True,
    )
    emulate_precision: bool = setting(
        False,
        "compute in a precision that the engine has no products of: slower than float32, for studies",
        late=True,
    )
    documents: bool = setting(
        False,
        "in pre-training, tokens see their own document alone: one begins at each special token that ends a"
        " text, and counts its positions from 0",
        late=True,
    )
    label_smoothing: float = setting(
        0.0, "share of each target that all tokens get alike, in pre-training", late=True
    )
    z_loss: float = setting(
        0.0,
        "weight, in pre-training, of the mean squared log-sum of the logits' exponentials (PaLM's: 1e-4)",
        late=True,
    )
    balance_loss: float | None = setting(
        None,
        "weight, for a mixture of experts, of the loss that is 1 where all experts get as many tokens; the"
        " mean over layers is added (default: 0.01)",
        late=True,
    )
    router_z_loss: float | None = setting(
        None,
        "weight, for a mixture of experts, of the mean squared log-sum of a router's scores (default: 0.001)",
        late=True,
    )
    eval_interval: int = setting(250, "steps between measurements of the held-out loss")
    eval_iters: int = setting(20, "batches in each measurement")
    save_interval: int = setting(250, "steps between checkpoints")
    seed: int = setting(1337, "seed of initialisation, batches and dropout")

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("batch_size", "accumulate", "eval_interval", "eval_iters", "save_interval"):
            expect(self, name, 1 <= getattr(self, name) <= LARGEST, f"1 to {LARGEST:,}")
        for name in ("lr", "weight_decay", "clip", "seed"):
            expect(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("steps", "warmup"):
            expect(self, name, 0 <= getattr(self, name) <= LONGEST, f"0 or more, up to {LONGEST:,}")
        for name in ("balance_loss", "router_z_loss"):
            weight = getattr(self, name)
            expect(self, name, weight is None or 0 <= weight <= 1e30, "0 or more")
        expect(self, "min_lr", self.min_lr is None or 0 <= self.min_lr <= self.lr, f"0 to lr {self.lr}")
        for name in ("beta1", "beta2", "momentum", "label_smoothing"):
            expect(self, name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        expect(self, "cooldown", 0 <= self.cooldown <= 1, "0 to 1, a share of the steps")
        expect(self, "z_loss", 0 <= self.z_loss <= 1e30, "0 or more")
        expect(self, "eps", self.eps >= 1e-30, "at least 1e-30, which float32 can add")
        if not self.masters and self.precision != "bf16":
            raise InputError(
                f"config: weights without masters have precision {self.precision}, expected bf16: only its"
                " rounding is random"
            )

    @property
    def final_lr(self) -> float:
        """The learning rate at the end."""
        return self.lr / 10 if self.min_lr is None else self.min_lr


def _divisors_near(n: int, near: int) -> list[int]:
    """Up to three divisors of n close to a number; 1 where none is."""
    nearby = range(max(1, near - 1000), min(n, near + 1000) + 1)  # not all: there may be millions
    divisors = {1, *(d for d in nearby if n % d == 0)}
    return sorted(sorted(divisors, key=lambda d: abs(d - near))[:3])
