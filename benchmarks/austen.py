"""Jane Austen's six novels as numgpt ships them, made from Debian's package of them.

From the package come lines as printed; what is written has a paragraph a line, in ASCII, and prose alone:
title pages, chapter heads, editors' notes and the marks of emphasis are left out.

Usage: apt-get download r-cran-janeaustenr; pip install rdata; python benchmarks/austen.py r-cran-*.deb
"""

import argparse
import hashlib
import lzma
import re
import subprocess
import tempfile
import warnings
import zlib
from pathlib import Path

TEXT = Path(__file__).parents[1] / "numgpt" / "data" / "texts" / "austen.txt.xz"
PACKAGE = "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"  # of r-cran-janeaustenr 1.0.0-1
DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata"
NOVELS = (  # in the order in which they were published
    "sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion",
)  # fmt: skip

HEAD = re.compile(r"(volume|chapter) [ivxl\d]+", re.IGNORECASE)
END = re.compile(r"the end|finis|\(end of volume \w+\.\)", re.IGNORECASE)
EDITORS_NOTE = "A NOTE ON THE TEXT"  # stands behind Northanger Abbey, and is not Austen's


def novels(package):
    """Name → lines, from R's database in the package: an index, and pieces compressed by zlib."""
    import rdata

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # rdata's, that a piece without a name is assumed to be RDS
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        places = rdata.read_rds(f"{folder}/{DATA}.rdx")["variables"]
        data = Path(f"{folder}/{DATA}.rdb").read_bytes()
        pieces = {str(name): data[start + 4 : start + size] for name, (start, size) in places.items()}
        parse, convert = rdata.parser.parse_data, rdata.conversion.convert
        return {name: convert(parse(zlib.decompress(piece))) for name, piece in pieces.items()}


def prose(lines):
    """The paragraphs of a novel, each on one line."""
    text = "\n".join(map(str, lines)).partition(EDITORS_NOTE)[0]
    text = re.sub(r"\[[^\]]*\]", "", text)  # of editors, and whom a letter was addressed to
    text = re.sub(r"£([\d,]*\d)", r"\1 pounds", text)
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    first = next(i for i, paragraph in enumerate(paragraphs) if HEAD.fullmatch(paragraph))
    return [unmarked(p) for p in paragraphs[first:] if is_prose(p)]


def is_prose(paragraph):
    """Whether a paragraph is no head, no end, no row of stars, and no footnote, which begins with one."""
    is_mark = HEAD.fullmatch(paragraph) or END.fullmatch(paragraph) or paragraph.startswith("*")
    return bool(paragraph) and not is_mark


def unmarked(paragraph):
    """Without the marks of emphasis and footnotes, and with dashes joined to the words around them."""
    return re.sub(r" ?-- ?", "--", paragraph.replace("_", "").replace("*", ""))


def main():
    """Check the package, write the text, and print what it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", help="r-cran-janeaustenr_1.0.0-1_all.deb")
    parser.add_argument("--out", type=Path, default=TEXT, help="(default: where numgpt reads it)")
    args = parser.parse_args()
    sha256 = hashlib.sha256(Path(args.package).read_bytes()).hexdigest()
    if sha256 != PACKAGE:
        raise SystemExit(f"{args.package}: has SHA-256 {sha256}, expected {PACKAGE}: another version?")
    lines = novels(args.package)
    text = "\n\n".join(paragraph for name in NOVELS for paragraph in prose(lines[name])) + "\n"
    data = text.encode("ascii")
    args.out.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    print(f"{args.out}: {len(data):,} bytes, {args.out.stat().st_size:,} compressed")
    print(f"SHA-256 of the text: {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
