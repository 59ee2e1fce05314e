"""What numgpt ships has names: numgpt:NAME stands where the path of a text or a model may."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, did_you_mean
from .atomic import StrPath

OWN = "numgpt:"  # what these names begin with
MODELS = Path(__file__).parents[1] / "models"  # a folder a model, each a checkpoint with a page beside it
MODEL = f"{OWN}austen"  # the one to sample from where there is no other


def is_named(place: StrPath) -> bool:
    """Whether a place is no path, but the name of something that ships, or is meant to be one."""
    return str(place).startswith(OWN)


def models() -> list[str]:
    """The names of the models that are there."""
    return sorted(f"{OWN}{config.parent.name}" for config in MODELS.glob("*/config.json"))


def located(place: StrPath) -> StrPath:
    """The folder of a model that ships for its name; any other place as it is."""
    if not is_named(place):
        return place
    names = models()
    if str(place) not in names:
        there = " or ".join(names) or "a numgpt that was installed with its data files"
        raise InputError(
            f"{place}: is no model of numgpt's{did_you_mean(str(place), names)}, expected {there}"
        )
    return MODELS / str(place).removeprefix(OWN)
