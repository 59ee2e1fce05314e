"""Text that every machine has: the default corpus, without a download."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

from ..random import generator


def default() -> tuple[str, str]:
    """(name, text) of the first source that this Python has."""
    text = language_reference()
    if text:
        return "Python's language reference", text
    text = docstrings()
    if text:
        return "The standard library's docstrings", text
    return "Sentences of a small grammar", grammar()


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
