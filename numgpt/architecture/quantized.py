"""What a quantized model has in the place of its matrices: integers of 8 or 4 bits, and their scales."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError
from .config import Config
from .fields import check_fields, documented, expect, setting
from .parameters import Part, Shape, parts

# How far a grid of 4 bits reaches: where its square error is least, or to the largest weight.
CLIPS = "mse", "absmax"
CALIBRATION = 16_384  # tokens that GPTQ reads at most

LINEAR = ("attention", "feed-forward", "experts")  # kinds of parts with matrices (..., in, out)
EMBEDDINGS = ("token embedding", "unembedding")  # with matrices (V, C), which have 8 bits at least
MEASURED = {8: "int8", 4: "uint8"}  # bits → the type of what is stored


class Form(NamedTuple):
    """How a matrix is stored: as rows of an embedding or inputs times outputs, and in how many bits.

    shape: of the matrix that it stands for, stacked for experts.
    """

    kind: str
    bits: int
    shape: Shape


@documented
@dataclasses.dataclass(frozen=True)
class Quantized:
    """Matrices rounded to integers, which take an eighth to a quarter of float32's bytes; the rest stays.

    With 8 bits each output has a scale, with 4 each output and group of inputs. Embeddings keep 8 bits, since
    a tied one decides every logit. Norms, biases, positions, routers and gates of experts stay what they are.

    GPT.quantize makes such a model; only adapters beside its matrices can be trained.

    Examples
    --------
    >>> from numgpt import Config
    >>> config = Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8)
    >>> list(Quantized(bits=4, group=8).shapes(config))[:3]
    ['wte.weight_scale', 'h.0.attn.c_attn.weight_scale', 'h.0.attn.c_proj.weight_scale']
    >>> Quantized(bits=4, group=8).integers(config)["h.0.mlp.c_fc.weight_q"]
    ('uint8', (4, 32))
    """

    bits: int = setting(8, "of each weight: 8, or 4")
    group: int = setting(64, "with 4 bits, how many inputs share a scale")
    asymmetric: bool = setting(False, "with 4 bits, whether each group has a zero of its own")
    keep_embedding: bool = setting(False, "whether token embedding and unembedding stay floats")

    def __post_init__(self) -> None:
        check_fields(self)
        expect(self, "bits", self.bits in MEASURED, "8 or 4")
        expect(
            self,
            "group",
            self.group >= 2 and self.group % 2 == 0,
            "an even number of inputs: two share a byte",
        )
        expect(
            self,
            "asymmetric",
            not self.asymmetric or self.bits == 4,
            "False with 8 bits, which are symmetric",
        )

    @checked
    def forms(self, config: Config) -> dict[str, Form]:
        """Name of what is rounded -> its Form; InputError where groups do not divide a matrix's inputs."""
        found = {}
        for part in parts(config):
            if part.kind in EMBEDDINGS and not self.keep_embedding:
                found[part.name] = Form("embedding", 8, part.shape)
            elif part.kind in LINEAR and is_rounded(part):
                found[part.name] = Form(
                    "experts" if len(part.shape) == 3 else "linear", self.bits, part.shape
                )
        for name, form in found.items():
            if form.bits == 4:
                self._expect_divides(name, form.shape[-2], found)
        return found

    def _expect_divides(self, name: str, inputs: int, found: Mapping[str, Form]) -> None:
        """Raise InputError unless groups divide a matrix's inputs, with a size of group that divides all."""
        if inputs % self.group == 0:
            return
        common = math.gcd(*(form.shape[-2] for form in found.values() if form.bits == 4))
        fitting = next((g for g in (64, 32, 16, 8, 4, 2) if common % g == 0), None)
        advice = "use 8 bits" if fitting is None else f"{fitting} divides all of the model's"
        raise InputError(
            f"Quantized: group is {self.group}, expected a divisor of the {inputs} inputs of {name}: {advice}"
        )

    @checked
    def shapes(self, config: Config) -> dict[str, Shape]:
        """Name -> shape of the scales, and of the zeros where groups have some."""
        named: dict[str, Shape] = {}
        for name, form in self.forms(config).items():
            *stacked, inputs, outputs = form.shape
            if form.kind == "embedding":
                named[f"{name}.weight_scale"] = (form.shape[0],)
            elif form.bits == 8:
                named[f"{name}.weight_scale"] = (*stacked, outputs)
            else:
                named[f"{name}.weight_scale"] = (*stacked, inputs // self.group, outputs)
                if self.asymmetric:
                    named[f"{name}.weight_zero"] = (*stacked, inputs // self.group, outputs)
        return named

    @checked
    def integers(self, config: Config) -> dict[str, tuple[str, Shape]]:
        """Name -> (type, shape) of the integers; two of 4 bits share a byte."""
        named = {}
        for name, form in self.forms(config).items():
            *stacked, inputs, outputs = form.shape
            rows = inputs if form.bits == 8 else inputs // 2
            named[f"{name}.weight_q"] = MEASURED[form.bits], (*stacked, rows, outputs)
        return named

    @checked
    def replaced(self, config: Config) -> list[str]:
        """The names of the parameters that a quantized model does not have."""
        return [f"{name}.weight" for name in self.forms(config)]

    def first_value(self, name: str, shape: Shape, seed: int) -> NDArray[Any]:
        """None: what is rounded begins as weights."""
        raise InputError(f"Quantized: {name} is rounded from weights, expected a model: model.quantize()")


def is_rounded(part: Part) -> bool:
    """Whether a matrix is worth it: that of a gate with one output is not, and decides much."""
    return part.shape[-1] > 1
