"""What do LLaMA's forms gain a small model? Its preset beside the GPT's, at equal FLOPs, over some seeds.

python llama_beside_gpt.py --plot picture.svg   draws the losses: pip install '.[plot]'
python llama_beside_gpt.py --presets gpt-nano gpt-nano:positions=rotary   asks what one field of Config does
"""

import argparse

import numpy as np
import picture

import numgpt
from numgpt.model.accounting import flops_per_token

MEASURED = 8  # how often a run's held-out loss is measured, evenly over its FLOPs
# Seeds → how many standard errors the mean may be off by in 19 of 20 cases (Student's t).
STUDENT = {2: 12.7, 3: 4.3, 4: 3.2, 5: 2.8, 6: 2.6, 7: 2.4, 8: 2.4}


def arguments():
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=480, help="of the first preset (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default: %(default)s)")
    names = ["gpt-nano", "llama-nano"]
    parser.add_argument(
        "--presets", nargs=2, default=names, metavar="NAME", help=f"default: {' '.join(names)}"
    )
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of both (default: %(default)s)")
    picture.add_flag(parser)
    args = parser.parse_args()
    if args.steps < MEASURED or args.seeds < 2:
        parser.error(
            f"--steps {args.steps} --seeds {args.seeds}, expected {MEASURED} steps or more, and two seeds or"
            " more for an error"
        )
    if len(set(args.presets)) == 1:
        parser.error(f"--presets names {args.presets[0]} twice, expected two models")
    try:
        [config_of(name, vocab_size=128) for name in args.presets]
    except (numgpt.InputError, TypeError, ValueError) as error:  # the name, the field, or its value
        parser.error(f"--presets {' '.join(args.presets)}: {error}")
    return args


def config_of(name, vocab_size):
    """The Config of a preset, "gpt-nano", or of one with a field changed, "gpt-nano:positions=rotary"."""
    preset, *changed = name.split(":")
    changes = dict(change.split("=") for change in changed)
    return numgpt.preset(preset, vocab_size=vocab_size, **changes)


def flops_per_step(config, training):
    """Multiplications and additions of one update: the backward costs twice the forward."""
    tokens = training.batch_size * training.accumulate * config.block_size
    return 3 * sum(flops_per_token(config).values()) * tokens


def losses(config, training, corpus):
    """The held-out loss after each of MEASURED parts of a run.  → (MEASURED)"""
    model = numgpt.GPT(config, training.seed, tokenizer=corpus.tokenizer)
    trainer = numgpt.Trainer(model, corpus, training)
    ends = np.linspace(0, training.steps, MEASURED + 1).round()[1:]
    measured = []
    for end in ends:
        while trainer.updates < end:
            trainer.step()
        measured.append(trainer.evaluate()["held_out_loss"])
    return np.array(measured)


def mean_and_error(values):
    """The mean over the seeds, and its standard error.  (seeds, MEASURED) → (MEASURED) twice"""
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def run(names, steps, seeds, lr):
    """(name → losses (seeds, MEASURED), FLOPs of a whole run of the first)"""
    corpus = numgpt.prepare("numgpt:python", tokenizer="chars")
    results, budget = {}, None
    width = max(map(len, names))
    print(f"{'model':{width}}  parameters  FLOPs a token  steps  10⁹ FLOPs")
    for name in names:
        config = config_of(name, corpus.tokenizer.vocab_size)
        training = numgpt.Training(steps=steps, lr=lr, warmup=steps // 20)
        per_step = flops_per_step(config, training)
        budget = budget or steps * per_step
        own = round(budget / per_step)  # as many as the same FLOPs allow
        a_token = per_step // (training.batch_size * training.accumulate * config.block_size)
        n_params = numgpt.GPT(config).n_params
        assert abs(own * per_step / budget - 1) <= 0.5 * per_step / budget, "equal FLOPs, to half a step"
        print(
            f"{name:{width}}  {n_params:10,}  {a_token:13,}  {own:5}  {own * per_step / 1e9:9,.0f}",
            flush=True,
        )
        runs = [
            losses(config, numgpt.Training(steps=own, lr=lr, warmup=own // 20, seed=seed), corpus)
            for seed in range(seeds)
        ]
        results[name] = np.array(runs)
    return results, budget


def draw(figure, results, flops):
    """The losses over the FLOPs."""
    axes = figure.subplots()
    for (name, values), colour in zip(results.items(), ("#1f4e8c", "#d55e00")):
        mean, error = mean_and_error(values)
        axes.errorbar(flops / 1e9, mean, yerr=error, color=colour, capsize=3, marker="o", markersize=3)
        end = flops[-1] / 1e9, mean[-1]
        axes.annotate(name, end, (8, 0), textcoords="offset points", color=colour, va="center")
    seeds = len(next(iter(results.values())))
    axes.set(
        title=f"at equal FLOPs: mean of {seeds} seeds ± its standard error",
        xlabel="10⁹ FLOPs of training",
        ylabel="held-out loss, nats a character",
    )
    axes.set_xlim(0, flops[-1] / 1e9 * 1.2)


def conclusion(first, second, gain, error, seeds):
    """What the difference at the end says, if its error lets it say anything."""
    figures = f"{abs(gain):.3f} ± {error:.3f} nats a character"
    if abs(gain) < STUDENT.get(seeds, 2.3) * error:
        return f"At equal FLOPs {first} and {second} differ by {figures}: too little to tell, train longer."
    better, worse = (second, first) if gain > 0 else (first, second)
    return f"At equal FLOPs the held-out loss of {better} is {figures} below that of {worse}."


def main():
    """Train both, print what they reached, draw it if a file is named."""
    args = arguments()
    show = picture.to(args.plot)
    numgpt.set_threads(1)  # a second one gains little on models of this size
    results, budget = run(args.presets, args.steps, args.seeds, args.lr)
    flops = budget * np.arange(1, MEASURED + 1) / MEASURED
    first, second = results
    columns = [mean_and_error(values) for values in results.values()]
    # Both models read the same batches in the same order at one seed, so their difference is less noisy.
    gain, error = mean_and_error(results[first] - results[second])
    widths = [max(len(name), 17) for name in results]
    heads = [f"{name:>{width}}" for name, width in zip(results, widths)]
    print(f"\n10⁹ FLOPs  {heads[0]}  {heads[1]}  second is lower by")
    for i, at in enumerate(flops):
        cells = [f"{mean[i]:.4f} ± {off[i]:.4f}" for mean, off in (*columns, (gain, error))]
        print(f"{at / 1e9:9,.0f}  {cells[0]:>{widths[0]}}  {cells[1]:>{widths[1]}}  {cells[2]:>18}")
    assert all((values[:, -1] < values[:, 0]).all() for values in results.values()), "each run learns"
    show(lambda figure: draw(figure, results, flops), size=(6.4, 4))
    print(f"\n{conclusion(first, second, gain[-1], error[-1], args.seeds)}")


if __name__ == "__main__":
    main()
