"""The commands that prove and compare: check, verify, diff, curvature."""

from pathlib import Path

import numpy as np

from .. import user_code
from ..architecture.config import LARGEST
from ..errors import InputError


def check(args):
    """numgpt check."""
    if args.strength:
        from ..proofs.strength import report

        return report(args.names, args.seed, args.draws)
    own = [name for name in args.names if user_code.is_named(name)]
    if own:
        if own != args.names:
            raise InputError(
                "check: a pair of your own and a name of numgpt's stand side by side, expected one kind:"
                " check them one after the other"
            )
        return max(_check_own(name, args) for name in own)
    if args.shapes:
        raise InputError("check: --shapes stands without a pair of your own, expected FILE.py:NAME before it")
    from ..proofs.subjects import subjects

    names = [s.name for s in subjects(args.seed) if not args.names or any(n in s.name for n in args.names)]
    if not names:
        raise InputError(
            f"check: nothing is called {' or '.join(args.names)}, expected part of a name such as layernorm:"
            " see numgpt check"
        )
    width, failed, total = max(map(len, names)), 0, 0
    print(f"{'name':{width}}  {'law':28}  residual  limit    verdict")
    for seed in range(args.seed, args.seed + args.draws):
        for subject in (s for s in subjects(seed) if s.name in names):
            for f in subject.findings(seed):
                total, failed = total + 1, failed + (not f.holds)
                print(
                    f"{subject.name:{width}}  {f.law:28}  {f.residual:8.1e}  {f.limit:7.0e} "
                    f" {'ok' if f.holds else 'FAILS ' + f.detail}"
                )
    print(f"\n{total} laws checked on {len(names)} subjects, {failed} failed")
    return 1 if failed else 0


def _check_own(text, args):
    """A user's pair: the laws, then the verdict in both precisions. 1 where one fails."""
    from .. import gradcheck

    forward, backward, op = pair(text)
    failed = 0
    for seed in range(args.seed, args.seed + args.draws):
        rng, options = np.random.default_rng(seed), {}
        if args.shapes is None and op is None:
            raise InputError(
                f"check: {text} has no shapes, expected them as in --shapes 3x5 5, one for each array"
            )
        if args.shapes is None:
            arrays, options = op.draw(
                rng, {c: int(rng.integers(2, 6)) for c in sorted(set(filter(str.isupper, op.line)))}, (2,)
            )
        else:
            arrays = [rng.standard_normal(shape) for shape in args.shapes]
        try:
            for f in gradcheck.findings(forward, backward, *arrays, seed=seed, **options):
                failed += not f.holds
                detail = (
                    "" if f.law in (gradcheck.TRANSPOSE, gradcheck.WITNESS) else f.detail
                )  # of a derivative the verdict says more
                print(
                    f"{text}  {f.law:28}  {f.residual:8.1e}  {f.limit:7.0e} "
                    f" {'ok' if f.holds else 'FAILS ' + detail}".rstrip()
                )
            for dtype in ("float64", "float32"):
                said = gradcheck.verdict(forward, backward, *arrays, dtype=dtype, seed=seed, **options)
                failed += bool(said.wrong)
                print(said)
        except gradcheck.GradientError as error:
            failed += 1
            print(f"{text}  FAILS {error}")
        except InputError:
            raise
        except user_code.RAISED as error:
            shapes = ", ".join(str(np.shape(a)) for a in arrays)
            raise InputError(
                f"{text}: raised {type(error).__name__}: {error} for arrays of shapes {shapes}, expected it"
                " to take them: see --shapes"
            ) from error
    return 1 if failed else 0


def pair(text):
    """(forward, backward, the Op if it is one) that a text names.

    NAME may be an Op, a pair of functions, the beginning of NAME_forward and NAME_backward, a
    torch.autograd.Function, or a function of PyTorch tensors whose name ends in _torch, of JAX arrays whose
    name ends in _jax.
    """
    from .. import gradcheck
    from ..ops import Op

    module, name = user_code.module_of(text)
    found, halves = (
        user_code.attribute(module, name),
        [user_code.attribute(module, f"{name}_{half}") for half in ("forward", "backward")],
    )
    if isinstance(found, Op):
        return found.forward, found.backward, found
    if all(map(callable, halves)):
        return *halves, None
    found = user_code.named(text) if found is None else found
    if isinstance(found, tuple) and len(found) == 2 and all(map(callable, found)):
        return *found, None
    if isinstance(found, type) and any(c.__module__.startswith("torch.autograd") for c in found.__mro__):
        return *gradcheck.from_torch(found.apply), None
    for ending, adapter in (("_torch", gradcheck.from_torch), ("_jax", gradcheck.from_jax)):
        if callable(found) and name.endswith(ending):
            return *adapter(found), None
    raise InputError(
        f"{text}: is {type(found).__name__}, expected {name}_forward and {name}_backward, a pair of"
        " functions, an Op, a torch.autograd.Function, or a function whose name ends in _torch or _jax"
    )


def verify(args):
    """numgpt verify."""
    from ..engine import current
    from ..parity import page, truth
    from ..parity import verify as against
    from ..parity.borrowing import torch
    from ..storage.atomic import write_file

    if args.html and (Path(args.html).is_dir() or not Path(args.html).absolute().parent.is_dir()):
        raise InputError(f"verify: --html is {args.html}, expected a file to write, in a folder that exists")
    torch()
    if args.names and not any(part in name for part in args.names for name in against.names_of(args.seed)):
        raise InputError(
            f"verify: nothing is called {' or '.join(args.names)}, expected part of a name such as layernorm:"
            " see numgpt verify"
        )
    print(f"{page.versions()}, engine {current()}\n\n{against.HEADER}")
    lines, tensors = [], []

    def show(line):
        lines.append(line)
        print(line, flush=True)

    for line in against.lines(args.seed, args.names):
        show(line)
    if not args.names or any(name in against.TRUTH for name in args.names):
        tensors = truth.measure(seeds=range(args.seed, args.seed + args.seeds))
        for line in against.truth_lines(tensors):
            show(line)
        print(f"\n{truth.HEADER}", *tensors, sep="\n")
    if args.html:
        write_file(args.html, page.page(lines, tensors, current()).encode())
    failed, skipped = sum(not line.holds for line in lines), sum(line.limit is None for line in lines)
    print(
        f"\n{len(lines) - skipped} comparisons with PyTorch, {failed} failed"
        + (f", {skipped} skipped" if skipped else "")
        + (f"; the page is {args.html}" if args.html else "")
    )
    return 1 if failed else 0


def diff(args):
    """numgpt diff."""
    from ..parity import first_divergence
    from ..storage.files import read_json

    names = read_json(args.names) if args.names else None
    found = first_divergence(
        args.a, args.b, names=names, dtype=args.dtype, seed=args.seed, shape=(args.batch_size, args.tokens)
    )
    if args.all:
        print(f"{found.comparison}\n")
    print(found)
    return 0 if found.first is None else 1


def curvature(args):
    """numgpt curvature."""
    from .. import calculus
    from ..model.gpt import GPT

    model = GPT.load(args.checkpoint)
    T = args.tokens or min(model.config.block_size, 64)
    if not 1 <= T <= model.config.block_size:
        raise InputError(f"curvature: --tokens is {T}, expected 1 to block_size {model.config.block_size}")
    if args.batch_size > LARGEST:
        raise InputError(f"curvature: --batch-size is {args.batch_size}, expected 1 to {LARGEST:,}")
    source, tokens, targets = _rows(args, model, T)
    wide = model.astype("float64")
    loss, grads = wide.loss_and_grads(tokens, targets)
    grads = grads.to("reference")
    length = np.linalg.norm(grads.flat)
    direction = grads.flat / (length or 1.0)
    norms = calculus.gradient_norms(model, tokens, targets)
    print(f"text              {source}: {len(tokens)} rows of {T} tokens")
    print(f"loss              {float(loss):.6f} nats a token")
    print(
        f"gradient          norm {length:.6g}; of single rows {norms.min():.4g} to {norms.max():.4g}, median"
        f" {np.median(norms):.4g}"
    )
    if len(tokens) > 1:
        noise = calculus.gradient_noise_scale(model, tokens, targets)
        print(
            f"noise scale       {noise.scale:.4g} rows (tr Σ {noise.trace:.4g}, |G|²"
            f" {noise.squared_norm:.4g})"
        )
    for name, product in calculus.OPERATORS.items():
        bend = direction @ product(model, tokens, targets, direction).flat
        print(f"along gradient    {bend:.6g} by the {name.replace('_', '-')}")
    if args.eigenvalues:
        top = calculus.top_eigenvalues(
            model,
            tokens,
            targets,
            args.eigenvalues,
            operator=args.operator,
            solver=args.solver,
            steps=args.steps,
            seed=args.seed,
        )
        for n, (value, bound) in enumerate(zip(top.values, top.bounds), 1):
            print(f"eigenvalue {n:<6} {value:.6g} ± {bound:.1g}")
        print(
            f"                  of the {args.operator.replace('_', '-')}, by {top.products} products with a"
            f" matrix of {model.n_params:,} rows"
        )
    return 0


def _rows(args, model, T):
    """(what they are, tokens, targets): rows of a text drawn by the seed, or of random tokens where the model
    has no tokenizer.
    """
    from ..data import corpus as data
    from ..random import generator

    rng = generator(args.seed, "curvature")
    if args.data is None:
        rows = rng.integers(0, model.config.vocab_size, (args.batch_size, T + 1))
        return "random tokens, for want of --data", rows[:, :-1], rows[:, 1:]
    if model.tokenizer is None:
        raise InputError(
            "curvature: the checkpoint has no tokenizer, expected one to read the text: leave --data out"
        )
    source, ids = data.encode(args.data, model.tokenizer, args.special)
    if len(ids) <= T:
        raise InputError(
            f"curvature: the text has {len(ids)} tokens, expected more than {T}: give fewer --tokens"
        )
    starts = rng.integers(0, len(ids) - T, args.batch_size)[:, None] + np.arange(T)
    return source, ids[starts].astype(np.int64), ids[starts + 1].astype(np.int64)
