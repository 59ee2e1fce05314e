"""What a pipeline will do, before it is started: who has which blocks, who waits how long, in what order."""

from __future__ import annotations

from ..architecture.config import Config
from . import stages
from .schedule import bubble, diagram, most_held, one_forward_one_backward, simulated

SHOWN = 8  # stages, or micro-batches, of a diagram that fits a screen


def shares(config: Config, cut: list[range]) -> list[float]:
    """The share of a step's products that each stage computes."""
    costs = stages.block_costs(config)
    of_stage = [sum(costs[i] for i in blocks) for blocks in cut]
    of_stage[-1] += stages.head_cost(config)
    return [cost / sum(of_stage) for cost in of_stage]


def report(config: Config, n_stages: int, batches: int) -> str:
    """The stages of a model, and the time in which they wait, on paper: products alone, and no messages.

    >>> print(report(Config(n_layer=4, n_head=2, n_embd=32, vocab_size=65, block_size=16), 2, 4))
    pipeline: 2 stages, 4 micro-batches a step
      stage 0  embedding, blocks 0 to 1       48.1 % of the products, holds 2 micro-batches at most
      stage 1  blocks 2 to 3, head and loss   51.9 % of the products, holds 1 micro-batch at most
      waiting  21.8 % of the time on paper, 20.0 % if all stages took as long as each other
      stage 0  F0 F1 .  .  B0 B0 F2 B1 B1 F3 B2 B2 .  B3 B3
      stage 1  .  F0 B0 B0 F1 B1 B1 F2 B2 B2 F3 B3 B3 .  .
    """
    cut = stages.split(config, n_stages)
    actions = [one_forward_one_backward(s, n_stages, batches) for s in range(n_stages)]
    of_stage = shares(config, cut)
    names = [_named(blocks, s == 0, s == n_stages - 1) for s, blocks in enumerate(cut)]
    width = max(map(len, names))
    lines = [f"pipeline: {n_stages} stages, {batches} micro-batches a step"]
    for s, (name, share) in enumerate(zip(names, of_stage)):
        held = most_held(actions[s])
        holds = f"holds {held} micro-batch{'es' if held > 1 else ''} at most"
        lines.append(f"  stage {s}  {name:{width}}  {share:6.1%} of the products, {holds}".replace("%", " %"))
    waits = simulated(actions, of_stage).bubble
    lines.append(
        f"  waiting  {100 * waits:.1f} % of the time on paper, {100 * bubble(n_stages, batches):.1f} % if all"
        " stages took as long as each other"
    )
    if max(n_stages, batches) <= SHOWN:
        lines += [f"  {line}" for line in diagram(actions).splitlines()]
    return "\n".join(lines)


def _named(blocks: range, is_first: bool, is_last: bool) -> str:
    """What a stage has, in words."""
    some = f"blocks {blocks[0]} to {blocks[-1]}" if len(blocks) > 1 else f"block {blocks[0]}"
    return f"{'embedding, ' if is_first else ''}{some}{', head and loss' if is_last else ''}"
