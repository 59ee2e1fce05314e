"""On paper: what a step on several ranks would take on machines that nobody has measured here."""

from __future__ import annotations

from typing import NamedTuple

from ..architecture.config import Config
from ..architecture.parameters import shapes
from .schedule import bubble

BYTES = 4  # of a float32
# Numbers for each parameter: itself, its gradient and two moments.
NUMBERS = 4


class Machine(NamedTuple):
    """A rank's floating-point operations a second, and the bytes a second that it sends to another."""

    name: str
    flops: float
    bandwidth: float


class OnPaper(NamedTuple):
    """What one way of working costs a rank: bytes sent in a step, seconds, and bytes held.

    waiting: the share of its time in which it computes nothing, as messages and the pipeline's bubble have it
    when nothing is hidden behind computing.
    """

    way: str
    sent: float
    seconds: float
    waiting: float
    held: float


def n_parameters(config: Config) -> int:
    """How many parameters a model has.

    >>> n_parameters(Config(vocab_size=5, block_size=4, n_layer=0, n_head=1, n_embd=2))
    22
    """
    sizes = 0
    for shape in shapes(config).values():
        size = 1
        for length in shape:
            size *= length
        sizes += size
    return sizes


def on_paper(config: Config, machine: Machine, ranks: int, tokens: int, batches: int = 8) -> list[OnPaper]:
    """What a step of so many tokens costs each of N ranks, way by way; nothing here was measured.

        computing   6 n t / F        n parameters, t tokens, F operations a second: forward 2, backward 4
        data        2 · 4 n (N−1)/N bytes: the sum of gradients, and the parameters
        tensor      2 · 4 (4 L + 2) t C (N−1)/N: an all-reduce of activations (t, C) for each of 4 L + 2 sums
        pipeline    2 · 4 t C: activations forward and their gradient back; (N−1)/(m+N−1) of the time waits

    A sum of N numbers takes each rank (N−1)/N sends to add up its part and as many to spread it: the ring's.
    Held are parameters, gradients and two moments: data parallel divides the moments, the others everything.

    batches: m, the micro-batches of a step in a pipeline.
    """
    n, C, L = n_parameters(config), config.n_embd, config.n_layer
    computing = 6 * n * tokens / ranks / machine.flops
    ring = 2 * (ranks - 1) / ranks
    whole = NUMBERS * BYTES * n
    lost = bubble(ranks, batches)
    ways = [
        ("data", ring * BYTES * n, 0.0, whole / 2 + whole / 2 / ranks),
        ("tensor", ring * BYTES * (4 * L + 2) * tokens * C, 0.0, whole / ranks),
        ("pipeline", 2 * BYTES * tokens * C, lost, whole / ranks),
    ]
    found = []
    for way, sent, idle, held in ways:
        seconds = computing / (1 - idle) + sent / machine.bandwidth
        found.append(OnPaper(way, sent, seconds, 1 - computing / seconds, held))
    return found


def table(config: Config, machines: list[Machine], sizes: list[int], tokens: int) -> str:
    """on_paper() as a table in Markdown, for steps of so many tokens."""
    lines = [
        "| machine | ranks | way | MB sent a rank and step | seconds a step | waiting | GB held a rank |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for machine in machines:
        for size in sizes:
            for row in on_paper(config, machine, size, tokens):
                lines.append(
                    f"| {machine.name} | {size} | {row.way} | {row.sent / 1e6:,.0f} | {row.seconds:.3g} |"
                    f" {row.waiting:.0%} | {row.held / 1e9:.2f} |"
                )
    return "\n".join(lines)
