"""numgpt check: the laws of a derivative, for numgpt's ops, layers and models, or for a pair of your own."""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import user_code
from ..errors import InputError, did_you_mean
from . import flags

if TYPE_CHECKING:
    from ..gradcheck import Finding
    from ..ops import Op

HELP = "Check the gradients of every op, layer and model against the laws of a derivative."
EXAMPLE = "numgpt check layernorm 'model GPT-2' --draws 5"

SIZES = (2, 6)  # of the dimensions of a user's Op, drawn from this range


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt check."""
    flags.add(
        parser,
        "names",
        nargs="*",
        metavar="NAME",
        help="part of the name of what to check; or FILE.py:NAME, a pair of your own",
        shown="everything",
    )
    flags.add(
        parser,
        "--shapes",
        nargs="+",
        type=flags.shape,
        metavar="3x5",
        help="shapes of the arrays that your own pair is given, filled with random floats",
        shown="from its Op's line",
    )
    flags.add(parser, "--seed", type=flags.count, metavar="N", help="seed of sizes and values", default=0)
    flags.add(
        parser,
        "--draws",
        type=flags.positive,
        metavar="N",
        help="how many times to check each, with other sizes and values",
        default=1,
    )
    flags.add(
        parser,
        "--strength",
        action="store_true",
        help="check the check: plant wrong gradients, on the reference engine, and report the share caught",
    )
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line a law; 1 where one fails."""
    if args.strength:
        from ..learn.laws import held
        from ..proofs.strength import report

        return report(args.names, args.seed, args.draws, held(args.names))
    pairs = [name for name in args.names if user_code.is_named(name)]
    if not pairs:
        return _check_subjects(args)
    if pairs != args.names:
        raise InputError(
            "check: got pairs of your own and names of numgpt's, expected one kind: check them one after the"
            " other"
        )
    return max(_check_pair(name, args) for name in pairs)


def _check_subjects(args: argparse.Namespace) -> int:
    """numgpt's own ops, layers and models."""
    from ..proofs.subjects import subjects

    if args.shapes:
        raise InputError("check: --shapes is for a pair of your own, expected FILE.py:NAME before it")
    names = [s.name for s in subjects(args.seed) if not args.names or any(n in s.name for n in args.names)]
    if not names:
        known = {word for s in subjects(args.seed) for word in (s.name, *s.name.split())}
        meant = "".join(did_you_mean(name, known) for name in args.names)
        raise InputError(
            f"check: nothing is called {' or '.join(args.names)}{meant}, expected part of a name such as"
            " layernorm: numgpt check lists them all"
        )
    width, laws, failed = max(map(len, names)), 0, 0
    print(f"{'name':{width}}  {'law':28}  residual  limit    verdict")
    for seed in range(args.seed, args.seed + args.draws):
        for subject in (s for s in subjects(seed) if s.name in names):
            for finding in subject.findings(seed):
                laws += 1
                failed += not finding.holds
                print(_line(f"{subject.name:{width}}", finding))
    print(f"\n{laws} laws checked on {len(names)} subjects, {failed} failed")
    return 1 if failed else 0


def _line(name: str, finding: Finding, detailed: bool = True) -> str:
    """A law and how far the pair is from it, with where it fails."""
    verdict = "ok"
    if not finding.holds:
        verdict = f"FAILS {finding.detail}" if detailed else "FAILS"
    return f"{name}  {finding.law:28}  {finding.residual:8.1e}  {finding.limit:7.0e}  {verdict}"


def _check_pair(text: str, args: argparse.Namespace) -> int:
    """A user's pair: the laws, then the verdict in both precisions. 1 where one fails."""
    from .. import gradcheck

    forward, backward, op = pair(text)
    if args.shapes is None and op is None:
        raise InputError(f"check: {text} has no shapes, expected one for each array, as in --shapes 3x5 5")
    failed = 0
    for seed in range(args.seed, args.seed + args.draws):
        arrays, options = _arrays(op, args.shapes, seed)
        try:
            failed += _judge(text, forward, backward, arrays, options, seed)
        except gradcheck.GradientError as error:
            failed += 1
            print(f"{text}  FAILS {error}")
        except InputError:
            raise
        except NotImplementedError:
            failed += 1
            print(f"{text}  not written yet: it raises NotImplementedError")
        except user_code.RAISED as error:
            shapes = ", ".join(str(np.shape(a)) for a in arrays)
            raise InputError(
                f"{text}: raised {type(error).__name__}: {error} for arrays of shapes {shapes}, expected it"
                " to take them: see --shapes"
            ) from error
    return 1 if failed else 0


def _arrays(
    op: Op | None, shapes: list[tuple[int, ...]] | None, seed: int
) -> tuple[list[Any], dict[str, Any]]:
    """(arrays, options) to check a pair with: of the shapes given, else drawn by the op's line."""
    rng = np.random.default_rng(seed)
    if shapes is not None or op is None:
        return [rng.standard_normal(shape) for shape in shapes or ()], {}
    letters = sorted(set(filter(str.isupper, op.line)))
    sizes = op.fitted({letter: int(rng.integers(*SIZES)) for letter in letters})
    return op.draw(rng, sizes, (2,))


def _judge(
    text: str, forward: Any, backward: Any, arrays: list[Any], options: dict[str, Any], seed: int
) -> int:
    """Print the laws and verdicts of a pair; how many of them fail."""
    from .. import gradcheck

    failed = 0
    for finding in gradcheck.findings(forward, backward, *arrays, seed=seed, options=options):
        failed += not finding.holds
        if not finding.holds and finding.law in (gradcheck.PURE, gradcheck.REPEATABLE):
            print(_line(text, finding))
            return failed  # and of its gradients nothing can be said
        of_derivative = finding.law in (gradcheck.TRANSPOSE, gradcheck.WITNESS)  # the verdict below says more
        print(_line(text, finding, detailed=not of_derivative))
    for dtype in ("float64", "float32"):
        verdict = gradcheck.verdict(forward, backward, *arrays, dtype=dtype, seed=seed, options=options)
        failed += bool(verdict.wrong)
        print(verdict)
    return failed


def pair(text: str) -> tuple[Any, Any, Op | None]:
    """(forward, backward, the Op if it is one) that a text names.

    NAME may be an Op, a pair of functions, the beginning of NAME_forward and NAME_backward, a
    torch.autograd.Function, a function of PyTorch tensors whose name ends in _torch, or one of JAX arrays
    whose name ends in _jax.
    """
    from .. import gradcheck
    from ..ops import Op

    module, name = user_code.module_of(text)
    thing = user_code.attribute(module, name)
    if isinstance(thing, Op):
        return thing.forward, thing.backward, thing
    halves = [user_code.attribute(module, f"{name}_{half}") for half in ("forward", "backward")]
    if all(map(callable, halves)):
        return halves[0], halves[1], None
    if thing is None:
        _expect_both(text, module, halves)
        thing = user_code.named(text)
    if isinstance(thing, tuple) and len(thing) == 2 and all(map(callable, thing)):
        return thing[0], thing[1], None
    if _is_autograd_function(thing):
        forward, backward = gradcheck.from_torch(thing.apply)
        return forward, backward, None
    for ending, adapter in (("_torch", gradcheck.from_torch), ("_jax", gradcheck.from_jax)):
        if callable(thing) and name.endswith(ending):
            forward, backward = adapter(thing)
            return forward, backward, None
    raise InputError(
        f"{text}: is {type(thing).__name__}, expected {name}_forward and {name}_backward, a pair of"
        " functions, an Op, a torch.autograd.Function, or a function whose name ends in _torch or _jax"
    )


def _expect_both(text: str, module: ModuleType, halves: list[Any]) -> None:
    """Raise InputError where one half of a pair is missing, or other pairs are there than the one named."""
    name = text.rpartition(":")[2]
    if callable(halves[0]) != callable(halves[1]):
        written, missing = ("forward", "backward") if callable(halves[0]) else ("backward", "forward")
        raise InputError(
            f"{text}: {name}_{written} is there and {name}_{missing} is not written yet, expected both"
        )
    names = [n.removesuffix("_forward") for n, f in vars(module).items() if callable(f)]
    pairs = [n for n in names if callable(user_code.attribute(module, f"{n}_backward"))]
    if pairs and name not in vars(module):
        meant = did_you_mean(name, pairs)
        raise InputError(f"{text}: there is no {name}{meant}, expected one of {', '.join(pairs)}")


def _is_autograd_function(thing: Any) -> bool:
    """Whether something is a class of torch.autograd.Function, found out without importing PyTorch."""
    return isinstance(thing, type) and any(c.__module__.startswith("torch.autograd") for c in thing.__mro__)
