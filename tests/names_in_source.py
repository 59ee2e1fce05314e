"""What a source asks CuPy for, and NumPy in the place of CuPy, read from its syntax tree."""

import ast
from pathlib import Path

import numpy as np
from cupy_names import METHODS, SPECIAL

ROOT = Path(__file__).parents[1] / "numgpt"
OPS = [
    p
    for p in sorted((ROOT / "ops").glob("*.py"))
    if not p.stem.endswith(("_numba", "_cupy")) and p.stem not in ("op", "__init__")
]
# The package, and of it what runs on arrays of the GPU by NumPy's dispatch.
BENCHMARKS = ROOT.parent / "benchmarks"
SPECIFICATION = (
    ROOT,
    [*OPS, ROOT / "layers" / "transformer.py", ROOT / "training" / "optim.py", ROOT / "layers" / "record.py"],
)
# Functions that do not look at their arrays for whose they are: like= tells them.
MAKERS = {
    "arange",
    "array",
    "asarray",
    "ascontiguousarray",
    "empty",
    "eye",
    "full",
    "identity",
    "linspace",
    "ones",
    "tri",
    "zeros",
}
REDUCTIONS = {"all", "any", "max", "mean", "min", "prod", "sum"}
# Methods of what is no array: streams, mappings, lists, texts.
OTHERS = {
    "append",
    "clear",
    "get",
    "items",
    "join",
    "keys",
    "pop",
    "random",
    "removesuffix",
    "setdefault",
    "split",
    "startswith",
    "endswith",
    "update",
    "values",
}


def of_cupy(source):
    """The dotted names that are asked of CuPy, as cupy.NAME, cp.NAME, sys.modules["cupy"].NAME, or of what a
    name was made for them.
    """
    tree = ast.parse(source)
    known = {"cupy": "", "cp": ""}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Attribute)
        ):
            name = _dotted(node.value, known)
            if name is not None:
                known[node.targets[0].id] = name
    found = {_dotted(node, known) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} - {None}
    return {
        name
        for name in found
        if not any(other.startswith(f"{name}.") for other in found) and name not in ("cuda", "cuda.runtime")
    }


def _dotted(node, known):
    """The name under CuPy that an expression is, "" for CuPy itself, None for another."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Subscript) and ast.unparse(node) in ("sys.modules['cupy']",):
        return ""
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value, known)
        return None if inner is None else f"{inner}.{node.attr}".lstrip(".")
    return None


def undispatched(source, functions):
    """A complaint for each thing in the functions of a source that an array of CuPy would not be served by."""
    found = []
    for body in ast.parse(source).body:
        if isinstance(body, ast.FunctionDef | ast.ClassDef):
            for node in ast.walk(body):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    found += [f"line {node.lineno}: {c}" for c in _complaints(node, functions)]
    return found


def _complaints(call, functions):
    name, keywords = call.func.attr, {k.arg for k in call.keywords}
    if isinstance(call.func.value, ast.Name) and call.func.value.id == "np":
        if name in MAKERS and "like" not in keywords:
            yield f"{name} makes an array of the host: give like="
        elif name not in functions:
            yield f"CuPy has no {name}"
    elif name in REDUCTIONS:
        yield from (f"CuPy's {name} has no {k}" for k in sorted(keywords & {"initial", "where"}))
    elif hasattr(np.ndarray, name) and name not in METHODS | SPECIAL | OTHERS:
        yield f"CuPy's arrays have no {name}"
