"""numgpt check --strength: plants wrong gradients and reports the share that the laws catch."""

from collections import Counter

from tqdm import tqdm

from ..errors import InputError
from ..gradcheck import TRANSPOSE
from .equal import REASONS
from .judge import RAISES, verdict
from .mutants import plant

COLUMNS = ("planted", "transpose", "other laws", "does not run", "equal", "survived")


def report(names=(), seed=0, draws=1):
    """Judge all mutants, or those whose name contains one of names; print the table, and what survived.

    Returns the exit status: 1 where a wrong gradient survived, or where the table of equal ones does not hold
    any more.
    """
    planted = list(plant())
    chosen = [m for m in planted if not names or any(n in m.name for n in names)]
    if not chosen:
        raise InputError(
            f"check: no backward, line or known fault has {' or '.join(names)} in it, expected part of one"
            " such as layernorm"
        )
    laws = {m: verdict(m, seed, draws) for m in tqdm(chosen, unit="mutant", disable=None, leave=False)}
    equal = [m for m in chosen if m.key in REASONS and laws[m] is None]
    survivors = [m for m in chosen if laws[m] is None and m.key not in REASONS]
    mistaken = [f"{m.name}: {laws[m]}" for m in chosen if m.key in REASONS and laws[m] is not None]
    mistaken += [f"{' '.join(key)}: is planted no more" for key in REASONS.keys() - {m.key for m in planted}]

    _print_table(laws)
    if equal:
        print("\nmathematically equal, and why:")
    for m in equal:
        print(f"  {m.name}\n      {REASONS[m.key]}")
    for title, lines in (
        ("survived:", [m.name for m in survivors]),
        ("not equal, though numgpt/strength/equal.py says so:", mistaken),
    ):
        if lines:
            print(f"\n{title}", *lines, sep="\n  ")
    caught = sum(law not in (None, RAISES) for law in laws.values())
    wrong = caught + len(survivors)
    share = f" ({100 * caught / wrong:.4g} %)" if wrong else ""
    print(
        f"\n{wrong} wrong gradients planted, {caught} caught by a law{share};"
        f" {Counter(laws.values())[RAISES]} more do not run or do not fit in shape; {len(equal)} are"
        " mathematically equal, for the reasons above"
    )
    return 1 if survivors or mistaken else 0


def _print_table(laws):
    """A line a kind, and how each ended."""
    counts = {}
    for m, law in laws.items():
        ended = {
            TRANSPOSE: "transpose",
            RAISES: "does not run",
            None: "equal" if m.key in REASONS else "survived",
        }.get(law, "other laws")
        counts.setdefault(m.kind, Counter()).update(("planted", ended))
    width = max(map(len, counts))
    print(f"{'kind':{width}}  " + "  ".join(COLUMNS))
    for kind, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        print(f"{kind:{width}}  " + "  ".join(f"{count[column]:{len(column)}}" for column in COLUMNS))
    others = Counter(law for law in laws.values() if law not in (TRANSPOSE, RAISES, None))
    if others:
        print(f"\nother laws: {', '.join(f'{law} {n}' for law, n in others.items())}")
