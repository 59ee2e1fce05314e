"""Text that every machine has: the default corpus, found without a download."""

import ast
import sysconfig
from pathlib import Path

from ..random import generator


def default():
    """(name, text) of the first of the sources that this Python carries."""
    for source in (language_reference, docstrings, grammar):
        text = source()
        if text:
            return f"{source.__doc__.split('.')[0]}", text


def language_reference():
    """Python's language reference. English prose of some 400,000 characters; its wording depends on Python's
    version.
    """
    try:
        from pydoc_data import topics
    except ImportError:  # an embedded or slimmed-down Python
        return ""
    return "\n\n".join(topics.topics[name].strip("\n") for name in sorted(topics.topics))


def docstrings():
    """The standard library's docstrings. Read from its sources without running them."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(filter(None, found))


def grammar(sentences=20000):
    """Sentences of a small grammar. The last resort, where Python carries no text at all."""
    draw = generator(0, "grammar")
    nouns = "river mountain teacher student letter machine garden winter story engine bridge child window ocean".split()
    verbs = "sees finds follows remembers forgets builds carries opens answers teaches".split()
    adjectives = "old quiet bright small patient distant careful heavy green sudden".split()

    def noun_phrase():
        adjective = f"{draw.choice(adjectives)} " if draw.random() < 0.5 else ""
        return f"{draw.choice(('the', 'a', 'every'))} {adjective}{draw.choice(nouns)}"

    def sentence():
        text = f"{noun_phrase()} {draw.choice(verbs)} {noun_phrase()}"
        if draw.random() < 0.3:
            text += f" that {draw.choice(verbs)} {noun_phrase()}"
        return text.capitalize() + "."

    return "\n\n".join(" ".join(sentence() for _ in range(5)) for _ in range(sentences // 5))
