"""What a source asks of CuPy, and of NumPy where arrays may be CuPy's, read from its syntax tree."""

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
BENCHMARKS = ROOT.parent / "benchmarks"
LAYERS = [ROOT / "layers" / f"{name}.py" for name in ("transformer", "record", "filed")]
# The package, and those of its files that run on arrays of the GPU by NumPy's dispatch.
SPECIFICATION = (ROOT, [*OPS, *LAYERS, ROOT / "training" / "optim.py"])
# Functions that make arrays of the host unless like= tells them whose to make.
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
# Methods of other things than arrays: generators, mappings, lists, texts.
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
    """The dotted names that a source asks of CuPy.

    They are written cupy.NAME, cp.NAME or sys.modules["cupy"].NAME, or begin with a variable that stands for
    one of these.
    """
    tree = ast.parse(source)
    known = {"cupy": "", "cp": ""}
    for node in ast.walk(tree):
        match node:
            case ast.Assign([ast.Name(variable)], ast.Attribute() as value):
                name = _dotted(value, known)
                if name is not None:
                    known[variable] = name
    names = {_dotted(node, known) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} - {None}
    longer = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
    return names - longer - {"cuda", "cuda.runtime"}


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
    """A complaint for each call in the functions of a source that CuPy's arrays would not serve."""
    complaints = []
    for body in ast.parse(source).body:
        if isinstance(body, ast.FunctionDef | ast.ClassDef):
            for node in ast.walk(body):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    complaints += [f"line {node.lineno}: {c}" for c in _complaints(node, functions)]
    return complaints


def _complaints(call, functions):
    name = call.func.attr
    keywords = {k.arg for k in call.keywords}
    if isinstance(call.func.value, ast.Name) and call.func.value.id == "np":
        if name in MAKERS and "like" not in keywords:
            yield f"{name} makes an array of the host: give like="
        elif name not in functions and name != "errstate":  # which holds for the host's arrays alone
            yield f"CuPy has no {name}"
    elif name in REDUCTIONS:
        yield from (f"CuPy's {name} has no {k}" for k in sorted(keywords & {"initial", "where"}))
    elif hasattr(np.ndarray, name) and name not in METHODS | SPECIAL | OTHERS:
        yield f"CuPy's arrays have no {name}"
