"""Flags of numgpt tune ppo, grpo and rloo, which learn from rewards of a model's own responses."""

from __future__ import annotations

import argparse
from typing import Any

from ..architecture.tunings import ITERATIONS, TUNINGS
from . import flags

PROMPTS = (
    "JSON, an object a line: prompt, messages (OpenAI's), conversations (ShareGPT's) or instruction and input"
    " (Alpaca's), whose other fields the reward is given; or a .txt file, a line a prompt"
)
REWARD = (
    "what gives rewards: a model that numgpt tune reward made, or FILE.py:NAME, a function of a prompt, a"
    " response and a dict of the prompt's other fields that gives a number"
)
ADVANTAGES = ("grpo", "dr_grpo", "reinforce++")
DIVERGENCES = ("k3", "k2", "rho_k3", "reward")
REDUCTIONS = ("token", "sequence", "constant")


def add_ppo(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt tune ppo."""
    options = TUNINGS["ppo"].options
    _add_sampling(parser, options)
    _add_update(parser, options)
    group = parser.add_argument_group("critic")
    _add_numbers(
        group,
        options,
        gamma="how much less a reward counts, for each token that it comes later",
        lam="GAE's λ: 1 trusts rewards alone, 0 the critic",
        value_weight="weight of the critic's loss, which is added",
        value_clip="how far an update may move what the critic expects",
    )
    flags.add(
        group,
        "--whiten-rewards",
        action="store_const",
        const=True,
        help="scale the rewards of an iteration's tokens to variance 1",
    )
    flags.add(
        group,
        "--adaptive-kl",
        dest="target_kl",
        type=float,
        metavar="TARGET",
        help="let --beta grow or shrink until the divergence is so many nats a response",
        shown="--beta stays",
    )
    flags.add(
        group,
        "--horizon",
        type=flags.positive,
        metavar="N",
        help="how slowly --adaptive-kl goes: responses in which --beta may change by a fifth of itself",
        shown=options["horizon"],
    )


def add_groups(parser: argparse.ArgumentParser, kind: str) -> None:
    """The flags of numgpt tune grpo and rloo, which compare the responses to a prompt."""
    options = TUNINGS[kind].options
    _add_sampling(parser, options)
    group = _add_update(parser, options)
    _add_numbers(group, options, clip_high="as --cliprange, for tokens that become likelier")
    if kind == "grpo":
        flags.add(
            group,
            "--advantage",
            choices=ADVANTAGES,
            help=(
                "what a response's reward is compared with: grpo: the group's mean, in units of its standard"
                " deviation; dr_grpo: the mean alone; reinforce++: the mean, in units of the batch's"
            ),
            shown=options["advantage"],
        )
    flags.add(
        group,
        "--kl",
        choices=DIVERGENCES,
        help=(
            "how the divergence counts: k3, k2, rho_k3: as a loss of each token; reward: as k1 of a response,"
            " taken from its reward"
        ),
        shown=options["kl"],
    )
    flags.add(
        group,
        "--reduction",
        choices=REDUCTIONS,
        help="what weighs the same: each token, each response, or each token whatever the lengths",
        shown="sequence for the advantage grpo, else constant",
    )


def _add_sampling(parser: argparse.ArgumentParser, options: Any) -> None:
    """What is sampled, and what it is worth."""
    flags.add(parser, "--reward", metavar="REWARD", help=REWARD, shown="with --resume the run's own")
    flags.add(
        parser,
        "--normalise-reward",
        action="store_const",
        const=True,
        help="shift and scale a reward model's numbers: those of the first responses get mean 0, variance 1",
    )
    flags.add(
        parser,
        "--iterations",
        type=flags.count,
        metavar="N",
        help="how often responses are sampled, rewarded and learned from",
        shown=ITERATIONS,
    )
    group = parser.add_argument_group(
        "sampling",
        "from the model's own probabilities: with top-k or top-p another model would\nbe sampled than the one"
        " that is trained, so there is neither",
    )
    flags.add(
        group,
        "--group",
        type=flags.positive,
        metavar="N",
        help="responses to each prompt; an iteration has --batch-size prompts for each minibatch",
        shown=options["group"],
    )
    flags.add(
        group,
        "--max-new-tokens",
        type=flags.positive,
        metavar="N",
        help="where a response is cut that has not ended",
        shown=f"{options['max_new_tokens']}, or half of a shorter context",
    )
    _add_numbers(group, options, temperature="what logits are divided by, in sampling and in the loss")
    flags.add(
        group,
        "--missing-end-reward",
        dest="missing_end",
        type=float,
        metavar="X",
        help="the reward of a response that was cut, whatever it says",
        shown="that of its text",
    )
    flags.add(
        group,
        "--sample-every",
        type=flags.positive,
        metavar="N",
        help="show some responses with their rewards every N steps",
        shown="every --eval-interval steps",
    )


def _add_update(parser: argparse.ArgumentParser, options: Any) -> Any:
    """How what was sampled is learned from; the group of these flags."""
    group = parser.add_argument_group("updates")
    _add_numbers(
        group,
        options,
        beta="weight of the divergence from the model as it was at first: less freedom for larger ones",
        clip="how much likelier or less likely a token may become before it stops counting, as a share",
    )
    for flag, dest, help in (
        ("--epochs-per-rollout", "epochs", "how often an iteration's responses are gone through"),
        ("--minibatches", "batches", "steps in which they are gone through"),
    ):
        shown = options[dest]
        flags.add(group, flag, type=flags.positive, metavar="N", help=help, shown=shown)
    return group


NAMES = {"clip": "cliprange", "clip_high": "cliprange_high"}  # --clip is of the gradient


def _add_numbers(group: Any, options: Any, **helps: str) -> None:
    """Flags that take a number, each called as in the recipe."""
    for name, help in helps.items():
        flag = f"--{NAMES.get(name, name).replace('_', '-')}"
        shown = "--cliprange" if name == "clip_high" else options[name]
        flags.add(group, flag, type=float, metavar="X", help=help, shown=shown)
