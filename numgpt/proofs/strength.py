"""numgpt check --strength: plants wrong gradients and reports the share that the laws catch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..errors import InputError
from ..gradcheck import TRANSPOSE
from .equal import REASONS
from .judge import RAISES, verdict
from .mutants import Mutant, plant

COLUMNS = ("planted", "transpose", "other laws", "does not run", "equal", "survived")


def report(
    names: Sequence[str] = (),
    seed: int = 0,
    draws: int = 1,
    lessons: Iterable[tuple[str, str | None]] = (),
) -> int:
    """Judge all mutants, or those whose name contains one of names; print the table, and what survived.

    lessons: (what it is, the law that catches it or None) of faults that were planted elsewhere, in the
    solutions of exercises, which lie on a floor above.

    Returns the exit status: 1 where a wrong gradient survived, or where the table of equal changes does not
    hold any more.
    """
    planted = list(plant())
    chosen = [m for m in planted if not names or any(n in m.name for n in names)]
    taught = dict(lessons)
    if not chosen and not taught:
        raise InputError(
            f"check: no backward, line or known fault contains {' or '.join(names)}, expected part of one"
            " such as layernorm"
        )
    from tqdm import tqdm  # late: without it everything else of the room works

    laws = {m: verdict(m, seed, draws) for m in tqdm(chosen, unit="mutant", disable=None, leave=False)}
    equal = [m for m in chosen if m.key in REASONS and laws[m] is None]
    survivors = [m.name for m in chosen if m.key not in REASONS and laws[m] is None]
    mistaken = [f"{m.name}: {laws[m]}" for m in chosen if m.key in REASONS and laws[m] is not None]
    mistaken += [f"{' '.join(key)}: is planted no more" for key in REASONS.keys() - {m.key for m in planted}]

    if chosen:
        _print_table(laws)
    _print_lines("mathematically equal, and why:", [f"{m.name}\n      {REASONS[m.key]}" for m in equal])
    survivors += [name for name, law in taught.items() if law is None]
    _print_lines("survived:", survivors)
    _print_lines("not equal, though numgpt/proofs/equal.py says so:", mistaken)
    if taught:
        ends = ", ".join(f"{law} {n}" for law, n in Counter(taught.values()).items() if law is not None)
        print(f"\n{len(taught)} faults planted in the exercises of numgpt learn: {ends}")
    caught = sum(law not in (None, RAISES) for law in laws.values())
    wrong = caught + sum(law is None for m, law in laws.items() if m.key not in REASONS)
    share = f" ({100 * caught / wrong:.4g} %)" if wrong else ""
    print(
        f"\n{wrong} wrong gradients planted, {caught} caught by a law{share};"
        f" {Counter(laws.values())[RAISES]} more do not run or do not fit in shape; {len(equal)} are"
        " mathematically equal, for the reasons above"
    )
    return 1 if survivors or mistaken else 0


def _print_lines(title: str, lines: Sequence[str]) -> None:
    """A titled list, nothing where it is empty."""
    if lines:
        print(f"\n{title}", *lines, sep="\n  ")


def _print_table(laws: Mapping[Mutant, str | None]) -> None:
    """A line a kind, and how its mutants ended."""
    counts: dict[str, Counter[str]] = {}
    for mutant, law in laws.items():
        counts.setdefault(mutant.kind, Counter()).update(("planted", _end(mutant, law)))
    width = max(map(len, counts))
    print(f"{'kind':{width}}  " + "  ".join(COLUMNS))
    for kind, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        print(f"{kind:{width}}  " + "  ".join(f"{count[column]:{len(column)}}" for column in COLUMNS))
    others = Counter(law for law in laws.values() if law not in (TRANSPOSE, RAISES, None))
    if others:
        print(f"\nother laws: {', '.join(f'{law} {n}' for law, n in others.items())}")


def _end(mutant: Mutant, law: str | None) -> str:
    """The column of a mutant that a law caught, or none did."""
    if law is None:
        return "equal" if mutant.key in REASONS else "survived"
    return {TRANSPOSE: "transpose", RAISES: "does not run"}.get(law, "other laws")
