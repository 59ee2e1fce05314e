"""The texts that a folder stands for, and how many files it holds besides."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".txt", ".md")  # of the files that a folder stands for, in capitals or not
SHOWN = 5  # kinds of files that are named


class Listing(NamedTuple):
    """The texts in a folder, sorted, and what else is there: kind → number."""

    texts: list[Path]
    left_out: Counter[str]

    def __str__(self) -> str:
        """What is left out, the most frequent first: 12 .png, 1 hidden folder."""
        kinds = [
            (f"{n:,} {kind}", n) for kind, n in sorted(self.left_out.items(), key=lambda k: (-k[1], k[0]))
        ]
        rest = sum(n for _, n in kinds[SHOWN:])
        return ", ".join([*(text for text, _ in kinds[:SHOWN]), *([f"{rest:,} others"] if rest else [])])


def texts_in(folder: Path) -> Listing:
    """The text files in a folder at any depth, but for hidden ones; an unreadable folder raises OSError.

    Links to folders are followed, each folder once: a loop ends, and a link to what is read anyway adds
    nothing.
    """
    listing = Listing([], Counter())
    waiting, links = [folder], list[Path]()
    seen: set[tuple[int, int]] = set()
    while waiting or links:
        # A folder comes before links to it, whatever the names: its texts keep their places.
        links.sort()
        place = waiting.pop() if waiting else links.pop(0)
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(place) as entries:
            for entry in entries:
                if not os.path.isdir(entry):  # of a link that leads to itself, entry.is_dir() raises
                    _file(entry, listing)
                elif entry.name.startswith("."):
                    listing.left_out["hidden folder"] += 1
                else:
                    (links if entry.is_symlink() else waiting).append(Path(entry.path))
    listing.texts.sort()
    return listing


def _file(entry: os.DirEntry[str], listing: Listing) -> None:
    """Take a file for a text, or count it."""
    is_text = entry.name.lower().endswith(SUFFIXES)
    if entry.name.startswith("."):
        if is_text:  # others, such as .DS_Store, nobody takes for a text
            listing.left_out["hidden text"] += 1
    elif is_text and (entry.is_symlink() or entry.is_file()):  # a link to nothing is an error when it is read
        listing.texts.append(Path(entry.path))
    elif not os.path.exists(entry):
        listing.left_out["link to nothing"] += 1
    elif not is_text:
        listing.left_out[Path(entry.name).suffix or "without an ending"] += 1
    else:
        listing.left_out["pipe or device"] += 1
