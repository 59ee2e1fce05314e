"""An iteration of GRPO, from 32 prompts to the updated policy, beside plain PyTorch's with a cache.

    python benchmarks/reinforcement.py

The model of examples/teach_addition.py answers each prompt 8 times with up to 5 tokens, sampled at
temperature 1; a function in Python rewards each answer. What was sampled is scored by a fixed copy of the
policy, without gradients, and one step of AdamW is taken. Prompts are of one length, so PyTorch's cache needs
no padding.

The policy's own log-probabilities, from which the ratio starts at 1, numgpt takes from the update's forward,
as TRL does where an iteration has one step. PyTorch's loop computes them beforehand, as the algorithm is
written down, or by the same short cut: "PyTorch, one forward less".
"""

import argparse
import os
import statistics
import sys
import time

import contest

KINDS = {"numgpt": "numgpt", "PyTorch": "torch", "PyTorch, one forward less": "torch-less"}
CHARACTERS = "\n+0123456789="
PROMPTS, GROUP, MOST, END = 32, 8, 5, 0
LR, BETA, CLIP = 1e-6, 0.01, 0.2  # a rate by which the policy, and so the work, stays as it is
STEPS = 3  # a turn


def prompts():
    """All prompts, each with its right answer."""
    return [(f"{a:02}+{b:02}=", f"{a + b}"[::-1]) for a in range(100) for b in range(100)]


def base():
    """The model that both begin with."""
    import numgpt

    config = numgpt.Config(len(CHARACTERS), block_size=12, n_layer=2, n_head=4, n_embd=64)
    return numgpt.GPT(config, seed=1, tokenizer=numgpt.tokenizers.Characters(CHARACTERS))


def numgpt_iteration(args):
    """A function that makes an iteration of numgpt's."""
    import numpy as np

    import numgpt
    from numgpt import tuning
    from numgpt.data import BARE, Conversation, Message, Prompt

    numgpt.use("numba")
    numgpt.set_threads(args.threads)
    model = base()
    asked = [Prompt(Conversation([Message("user", text)]), {"sum": answer}) for text, answer in prompts()]

    def reward(prompts, responses):
        return np.array([float(p.fields["sum"] == text) for p, text in zip(prompts, responses)])

    training = numgpt.Training(steps=10**6, batch_size=PROMPTS, lr=LR, min_lr=LR, warmup=0, weight_decay=0.0)
    objective = tuning.PolicyGradient(
        model, asked, reward, training, tuning.frozen(model), template=BARE, group=GROUP,
        max_new_tokens=MOST, clip=CLIP, beta=BETA,
    )  # fmt: skip
    return numgpt.Trainer(model, None, training, objective=objective).step


def text_of(ids):
    """What a response says before its end."""
    return "".join(CHARACTERS[i] for i in ids).partition("\n")[0]


def sampled(model, tokens, generator):
    """Tokens (B, T) and a response to each, by PyTorch; behind its end stands the end again."""
    import torch

    with torch.inference_mode():
        B, T = tokens.shape
        H, C = model.blocks[0].n_head, model.wte.weight.shape[1]
        caches = [torch.empty(2, B, H, T + MOST, C // H) for _ in model.blocks]
        parts, start, going = [tokens], 0, torch.ones(B, 1, dtype=torch.bool)
        for _ in range(MOST):
            logits = model.next_logits(parts[-1], caches, start)
            start += parts[-1].shape[1]
            ids = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            parts.append(torch.where(going, ids, END))
            going &= ids != END
            if not going.any():
                break
    return torch.cat(parts, 1).clone()


def torch_iteration(args):
    """A function that makes an iteration of PyTorch's."""
    import copy

    import torch
    import torch_gpt
    from torch.nn import functional as F

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ours = base()
    model = torch_gpt.GPT(ours.config)
    model.load(dict(ours.params.items()))
    fixed = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(0)
    every = [(torch.tensor([CHARACTERS.index(c) for c in text]), answer) for text, answer in prompts()]
    first = len(every[0][0])

    def logp_of(policy, tokens):
        """The log-probabilities of the responses' tokens."""
        x = policy.wte(tokens[:, :-1]) + policy.wpe(torch.arange(tokens.shape[1] - 1))
        for block in policy.blocks:
            x = block(x)
        logits = F.linear(policy.ln_f(x[:, first - 1 :]), policy.wte.weight)
        return -F.cross_entropy(logits.transpose(1, 2), tokens[:, first:], reduction="none")

    def iteration():
        items = torch.randint(len(every), (PROMPTS,), generator=generator).repeat_interleave(GROUP)
        tokens = sampled(model, torch.stack([every[i][0] for i in items]), generator)
        written = tokens[:, first:]
        ended = (written == END).cumsum(1)
        weights = ((ended == 0) | ((ended == 1) & (written == END))).float()
        reward = torch.tensor(
            [float(every[i][1] == text_of(row)) for i, row in zip(items.tolist(), written.tolist())]
        ).view(-1, GROUP)
        advantages = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
        advantages = advantages.view(-1, 1)
        with torch.no_grad():
            old = None if args.worker == "torch-less" else logp_of(model, tokens)
            apart = logp_of(fixed, tokens)
        optimizer.zero_grad()
        logp = logp_of(model, tokens)
        if old is None:
            old = logp.detach()
        ratio = (logp - old).exp()
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
        each = -surrogate + BETA * (torch.expm1(apart - logp) - (apart - logp))
        ((each * weights).sum(1) / weights.sum(1)).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return iteration


def share_in_kernels(iteration, times=10):
    """What share of some iterations is spent within launches of compiled kernels.

    Products of NumPy's own, and compiled functions that no launch runs, are not counted.
    """
    from numgpt.engine import jit

    launch, spent = jit.launch, 0.0

    def timed(*args):
        nonlocal spent
        begin = time.perf_counter()
        launch(*args)
        spent += time.perf_counter() - begin

    importers = [m for m in list(sys.modules.values()) if getattr(m, "launch", None) is launch]
    for module in importers:
        module.launch = timed
    begin = time.perf_counter()
    for _ in range(times):
        iteration()
    share = spent / (time.perf_counter() - begin)
    for module in importers:
        module.launch = launch
    return share


def worker(args):
    """A contestant: an iteration, then some whenever asked, and what share of one is spent in kernels."""
    iteration = (numgpt_iteration if args.worker == "numgpt" else torch_iteration)(args)

    def timed():
        begin = time.perf_counter()
        for _ in range(STEPS):
            iteration()
        return {"seconds": (time.perf_counter() - begin) / STEPS}

    def first():
        iteration()
        return {}

    def kernels():
        return {"share": share_in_kernels(iteration)}

    contest.serve({"first": first, "time": timed, "kernels": kernels})


def main(argv):
    """Read the flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11, help="how often each is asked (default: 11)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of each (default: all processors)"
    )
    parser.add_argument(
        "--results", metavar="NAME", help="write what is printed to benchmarks/results/NAME.md"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        worker(args)
        return
    page = contest.Page(args.results, f"python benchmarks/reinforcement.py {' '.join(argv)}".rstrip())
    page.say(contest.show_machine() + f", {args.threads} threads")

    def start(name):
        flags = ["--worker", KINDS[name], "--threads", str(args.threads)]
        return contest.Contestant(name, [sys.executable, __file__, *flags])

    entered, _ = contest.enter(map(start, KINDS), "first", page.say)
    contest.time_in_turn(list(entered.values()), args.rounds)
    others = list(KINDS)[1:]
    page.say(f"| | ms an iteration | {' | '.join(f'to {other}' for other in others)} |")
    page.say(f"| --- | ---: |{' ---: |' * len(others)}")
    for name, c in entered.items():
        ratios = [contest.ratio(c, entered[other]) if other in entered else None for other in others]
        shown = " | ".join(contest.number(ratio, ".2f") for ratio in ratios)
        page.say(f"| {name} | {1e3 * statistics.median(c.seconds):.1f} | {shown} |")
    share = entered["numgpt"].ask("kernels")["share"]
    page.say(f"in launches of kernels, of numgpt's: {share:.0%}")
    for contestant in entered.values():
        contestant.close()
    page.write()


if __name__ == "__main__":
    contest.run(main)
