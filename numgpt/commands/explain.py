"""numgpt explain: an op's formula, derivation, an example in small numbers, and PyTorch's line."""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Iterator

from . import flags

HELP = "Explain an op: its formula and derivation, an example in small numbers, PyTorch's line for it."
EXAMPLE = "numgpt explain layernorm --html layernorm.html"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt explain."""
    flags.add(parser, "op", metavar="OP", help="an op such as layernorm, or an exercise of numgpt learn")
    flags.add(
        parser, "--html", metavar="FILE", help="write one page to print and hand out; it needs no other file"
    )


def run(args: argparse.Namespace) -> int:
    """Print the explanation, or write it as a page."""
    from ..learn import explaining
    from ..storage.atomic import write_file

    op = explaining.op_of(args.op)
    sections = explaining.explained(op, torch_line(op.name))
    if args.html:
        write_file(args.html, explaining.as_html(op, sections).encode())
        print(f"{args.html}: open it in a browser, or print it")
    else:
        print(explaining.as_text(op, sections))
    return 0


def torch_line(name: str) -> str:
    """What PyTorch calls an op, as the table of parity has it: an expression, or the function for it."""
    from ..parity import attention_table, op_table

    for module in (op_table, attention_table):
        source = inspect.getsource(module)
        functions = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Dict):
                continue
            for key, value in zip(node.keys, node.values):
                if isinstance(key, ast.Constant) and key.value == name:
                    return _unparsed(value, functions)
    return ""


def _unparsed(value: ast.expr, functions: dict[str, ast.FunctionDef]) -> str:
    """A lambda's expression, or the function that stands there, after the functions that it calls."""
    body = value.body if isinstance(value, ast.Lambda) else value
    names = list(_called(body, functions))
    for name in names:
        names += [n for n in _called(functions[name], functions) if n not in names]
    parts = [_without_types(ast.unparse(functions[name])) for name in reversed(names)]
    return "\n\n".join(parts if isinstance(body, ast.Name) else [*parts, ast.unparse(body)])


def _called(node: ast.AST, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    """The functions of its own module that a piece of code speaks of."""
    yield from dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in functions)


def _without_types(text: str) -> str:
    return text.replace("torch: Any, ", "").replace(": Any", "").replace(" -> Any", "")
