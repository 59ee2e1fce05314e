"""Pruned: a model of which some weights are masked, and where the masks lie."""

import dataclasses
from typing import Any

from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError
from .config import Config
from .fields import check_fields, documented, expect, setting
from .parameters import Part, Shape, parts
from .patterns import matching
from .quantized import LINEAR, is_rounded

CRITERIA = "magnitude", "gradient", "fisher"  # by which weights are chosen
UNITS = "heads", "neurons"  # what is removed whole
WITHIN = "part", "model"  # where a share is taken: in each matrix or layer, or of all together


def prunable(config: Config) -> dict[str, Part]:
    """Name -> Part of the matrices whose weights may be pruned: of attention, feed-forwards and experts.

    Embeddings stay, whose rows are tokens, and so do norms, biases, routers and gates.
    """
    return {part.name: part for part in parts(config) if part.kind in LINEAR and is_rounded(part)}


@documented
@dataclasses.dataclass(frozen=True)
class Pruned:
    """Masks on matrices: what is masked counts as 0, has gradient 0 and stays 0 while the rest is trained.

        y = x (M ∘ W) + b        M of bytes, 0 where a weight is masked

    GPT.pruned makes such a model; merged() gives the same function without masks.

    Examples
    --------
    >>> from numgpt import Config
    >>> config = Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)
    >>> Pruned(targets=("h.*.mlp.*",)).integers(config)
    {'h.0.mlp.c_fc.weight_mask': ('uint8', (4, 16)), 'h.0.mlp.c_proj.weight_mask': ('uint8', (16, 4))}
    """

    targets: tuple[str, ...] = setting(
        ("h.*.attn.*", "h.*.mlp.*"), "patterns of the matrices that have a mask"
    )

    def __post_init__(self) -> None:
        check_fields(self)
        expect(self, "targets", len(self.targets) > 0, "at least one pattern, such as 'h.*.mlp.*'")

    @checked
    def parts(self, config: Config) -> dict[str, Part]:
        """Name -> Part of the matrices that have a mask."""
        found = prunable(config)
        return {name: found[name] for name in matching("Pruned: targets", self.targets, found)}

    @checked
    def shapes(self, config: Config) -> dict[str, Shape]:
        """Nothing: masks are integers, and the weights keep their names."""
        return {}

    @checked
    def integers(self, config: Config) -> dict[str, tuple[str, Shape]]:
        """Name -> (type, shape) of the masks."""
        return {f"{name}.weight_mask": ("uint8", part.shape) for name, part in self.parts(config).items()}

    def first_value(self, name: str, shape: Shape, seed: int) -> NDArray[Any]:
        """None: it adds no parameters."""
        raise InputError(f"Pruned: {name} is no parameter of it, expected masks: model.pruned() makes them")
