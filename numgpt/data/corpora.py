"""Texts that need no download: those that numgpt ships, and those that every Python has."""

from __future__ import annotations

import ast
import sysconfig
from importlib.resources import files
from pathlib import Path

from ..errors import InputError, did_you_mean
from ..random import generator

NAMES = "numgpt:austen", "numgpt:python"


def default() -> str:
    """The name of the default text: Austen's novels, or where numgpt was installed without them, Python's."""
    return NAMES[0] if austen() else NAMES[1]


def named(name: str) -> tuple[str, str]:
    """(what it is, text) of a name in NAMES."""
    if name == "numgpt:python":
        return python()
    if name != "numgpt:austen":
        raise InputError(
            f"{name}: is no text of numgpt's{did_you_mean(name, NAMES)}, expected {' or '.join(NAMES)}"
        )
    text = austen()
    if not text:
        raise InputError(
            f"{name}: is missing where numgpt is installed, expected its data files: install numgpt again, or"
            " choose numgpt:python"
        )
    return "Jane Austen's six novels", text


def python() -> tuple[str, str]:
    """(what it is, text) of the first of Python's own sources that this Python has."""
    text = language_reference()
    if text:
        return "Python's language reference", text
    text = docstrings()
    if text:
        return "The standard library's docstrings", text
    return "Sentences of a small grammar", grammar()


def austen() -> str:
    """Jane Austen's six novels, some 4,000,000 characters in ASCII; "" if this numgpt lacks them.

    A paragraph is a line, paragraphs are separated by an empty one, and heads of chapters are left out:
    texts/NOTICE says where it comes from.
    """
    file = files(__package__) / "texts" / "austen.txt.xz"
    try:
        import lzma

        with file.open("rb") as compressed:
            return lzma.decompress(compressed.read()).decode("ascii")
    except (ImportError, OSError):  # a slimmed-down Python, or a numgpt without its data
        return ""
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: is damaged ({error}), expected the text as numgpt ships it: install numgpt again"
        ) from error


def language_reference() -> str:
    """Python's language reference, English prose of some 400,000 characters; "" if this Python lacks it.

    The wording depends on Python's version.
    """
    try:
        from pydoc_data import topics
    except ImportError:  # an embedded or slimmed-down Python
        return ""
    return "\n\n".join(topics.topics[name].strip("\n") for name in sorted(topics.topics))


def docstrings() -> str:
    """The standard library's docstrings, parsed from its sources without running them."""
    texts = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                texts.append(ast.get_docstring(node) or "")
    return "\n\n".join(filter(None, texts))


def grammar(sentences: int = 20000) -> str:
    """Sentences of a small grammar: the last resort, for a Python without any text."""
    draw = generator(0, "grammar")
    nouns = [
        "river", "mountain", "teacher", "student", "letter", "machine", "garden",
        "winter", "story", "engine", "bridge", "child", "window", "ocean",
    ]  # fmt: skip
    verbs = [
        "sees", "finds", "follows", "remembers", "forgets",
        "builds", "carries", "opens", "answers", "teaches",
    ]  # fmt: skip
    adjectives = [
        "old", "quiet", "bright", "small", "patient",
        "distant", "careful", "heavy", "green", "sudden",
    ]  # fmt: skip

    def noun_phrase() -> str:
        adjective = f"{draw.choice(adjectives)} " if draw.random() < 0.5 else ""
        return f"{draw.choice(('the', 'a', 'every'))} {adjective}{draw.choice(nouns)}"

    def sentence() -> str:
        text = f"{noun_phrase()} {draw.choice(verbs)} {noun_phrase()}"
        if draw.random() < 0.3:
            text += f" that {draw.choice(verbs)} {noun_phrase()}"
        return text.capitalize() + "."

    return "\n\n".join(" ".join(sentence() for _ in range(5)) for _ in range(sentences // 5))
