"""The order in which the stages of a pipeline work: as data, that laws, diagrams and processes read alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

FORWARD, BACKWARD = "F", "B"


class Action(NamedTuple):
    """The forward F or the backward B of a micro-batch, on one stage."""

    way: str
    batch: int

    def __str__(self) -> str:
        return f"{self.way}{self.batch}"


Schedule = Callable[[int, int, int], list[Action]]  # (stage, stages, batches) → what the stage does, in order


def one_forward_one_backward(stage: int, stages: int, batches: int) -> list[Action]:
    """1F1B: as few forwards as keep the later stages at work, then one backward for each forward.

    The gradient of micro-batch 0 is back at stage s after p − 1 − s more stages have seen it, so that many
    forwards come first. From then on each forward is followed by a backward, which lets go of what an earlier
    forward has saved: no stage holds more than min(m, p − s) micro-batches, however many there are.
    Source: PipeDream-flush (Narayanan et al. 2021).

    >>> print(*one_forward_one_backward(0, stages=2, batches=4))
    F0 F1 B0 F2 B1 F3 B2 B3
    """
    ahead = min(batches, stages - 1 - stage)
    actions = [Action(FORWARD, n) for n in range(ahead)]
    for n in range(batches - ahead):
        actions += [Action(FORWARD, ahead + n), Action(BACKWARD, n)]
    return actions + [Action(BACKWARD, n) for n in range(batches - ahead, batches)]


def forwards_then_backwards(stage: int, stages: int, batches: int) -> list[Action]:
    """GPipe: all forwards, then all backwards; every micro-batch is held. Source: Huang et al. 2019."""
    return [Action(way, n) for way in (FORWARD, BACKWARD) for n in range(batches)]


def only_forwards(stage: int, stages: int, batches: int) -> list[Action]:
    """What measuring a loss takes."""
    return [Action(FORWARD, n) for n in range(batches)]


class Timeline(NamedTuple):
    """When each action of each stage begins and ends, in the time that one forward takes."""

    stages: list[dict[Action, tuple[float, float]]]

    @property
    def end(self) -> float:
        """When the last stage is done."""
        return max((end for stage in self.stages for _, end in stage.values()), default=0.0)

    @property
    def bubble(self) -> float:
        """The share of all stages' time in which they wait."""
        busy = sum(end - begin for stage in self.stages for begin, end in stage.values())
        return 1 - busy / (len(self.stages) * self.end)


def simulated(
    stages: Sequence[Sequence[Action]], forward: Sequence[float] | float = 1.0, backward: float = 2.0
) -> Timeline:
    """When everything happens, where messages take no time.

    A forward waits for the forward of the stage before, a backward for the backward of the stage after, and
    each for the stage's own action before it.

    forward: what a forward takes, of each stage where they differ. backward: how many forwards one takes.
    """
    p = len(stages)
    takes = [forward] * p if isinstance(forward, int | float) else list(forward)
    done: list[dict[Action, tuple[float, float]]] = [{} for _ in range(p)]
    clock, place = [0.0] * p, [0] * p
    moved = True
    while moved:
        moved = False
        for s, actions in enumerate(stages):
            while place[s] < len(actions):
                action = actions[place[s]]
                ready = _ready(done, s, action)
                if ready is None:
                    break
                begin = max(clock[s], ready)
                clock[s] = begin + takes[s] * (1 if action.way == FORWARD else backward)
                done[s][action] = begin, clock[s]
                place[s] += 1
                moved = True
    stuck = [
        f"stage {s} waits to do {actions[place[s]]}"
        for s, actions in enumerate(stages)
        if place[s] < len(actions)
    ]
    assert not stuck, f"the stages wait for each other: {', '.join(stuck)}"
    return Timeline(done)


def _ready(done: Sequence[dict[Action, tuple[float, float]]], s: int, action: Action) -> float | None:
    """When what an action of stage s reads is there, None where that is not known yet."""
    needed = []
    if action.way == FORWARD and s > 0:
        needed.append(done[s - 1].get(action))
    if action.way == BACKWARD:
        needed.append(done[s].get(Action(FORWARD, action.batch)))
        if s + 1 < len(done):
            needed.append(done[s + 1].get(action))
    ends = [times[1] if times else None for times in needed]
    if None in ends:
        return None
    return max((end for end in ends if end is not None), default=0.0)


def most_held(actions: Sequence[Action]) -> int:
    """How many micro-batches a stage holds at once, between the forward and the backward of each."""
    held = most = 0
    for action in actions:
        held += 1 if action.way == FORWARD else -1
        most = max(most, held)
    return most


def bubble(stages: int, batches: int) -> float:
    """(p − 1) / (m + p − 1): the share of time in which stages that are equally fast wait.

    The last stage can begin after p − 1 forwards, and the first is done p − 1 backwards after the last. In
    between each has m forwards and m backwards to do, so p − 1 of m + p − 1 parts are lost.

    >>> bubble(stages=2, batches=4)
    0.2
    """
    return (stages - 1) / (batches + stages - 1)


def diagram(stages: Sequence[Sequence[Action]]) -> str:
    """A line for each stage, a column for the time of a forward; a backward takes two, a dot is waiting.

    >>> print(diagram([one_forward_one_backward(s, 2, 4) for s in range(2)]))
    stage 0  F0 F1 .  .  B0 B0 F2 B1 B1 F3 B2 B2 .  B3 B3
    stage 1  .  F0 B0 B0 F1 B1 B1 F2 B2 B2 F3 B3 B3 .  .
    """
    timeline = simulated(stages)
    width = max((len(str(action)) for actions in stages for action in actions), default=1)
    lines = []
    for s, times in enumerate(timeline.stages):
        cells = ["."] * int(timeline.end)
        for action, (begin, end) in times.items():
            cells[int(begin) : int(end)] = [str(action)] * int(end - begin)
        lines.append(f"stage {s}  " + " ".join(f"{cell:{width}}" for cell in cells).rstrip())
    return "\n".join(lines)
