"""Which code runs an op: its specification, or a faster twin of it where the engine has one."""

from .errors import InputError

ENGINES = ("reference",)
_engine = "reference"


def use(name):
    """Choose the engine for all that follows: "reference", the specification in plain NumPy."""
    global _engine
    if name not in ENGINES:
        raise InputError(f"engine: {name!r} is unknown, expected one of {', '.join(ENGINES)}")
    _engine = name


def current():
    """The name of the engine in use."""
    return _engine


def forward(op):
    """The forward that the engine in use runs for op."""
    return op.forward


def backward(op):
    """The backward that the engine in use runs for op."""
    return op.backward
