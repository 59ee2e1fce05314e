"""A row of the table of cell formulas, and what becomes of it in a page."""

from __future__ import annotations

import ast
import re
import textwrap
from typing import Any, NamedTuple

from ..ops import Op
from .expressions import parse


class Row(NamedTuple):
    """How the numbers of an op come about, in equations with indices.

    letters: what the op's arrays are called, in their order: "x W b". value: the equation of a cell of the
    value, whose letter is d + that in gradients. gradients: an equation for each array that has one. locals:
    equations that all of them may use.
    """

    letters: str
    value: str
    gradients: str = ""
    locals: str = ""

    def cells(self, op: Op) -> dict[str, Any]:
        """The row as data: letters, trees, and what each letter stands for in a step of this op.

        inputs: how many of the letters are what a step reads; the others are parameters by their ends, weight
        or bias. axes: letter → the names of its indices.
        """
        letters = self.letters.split()
        result = re.findall(r"\w+", self.value)[0]
        known = (*letters, result, f"d{result}")
        shared = textwrap.dedent(self.locals)
        forward = parse(shared + textwrap.dedent(self.value), known)
        backward = {}
        for equation in ast.parse(textwrap.dedent(self.gradients)).body:
            tree = parse(f"{shared}\n{ast.unparse(equation)}", known)
            backward[tree["result"][1:]] = tree
        inputs = len(op.arguments) - len(op.parameters)
        axes = {result: forward["index"]} | {letter: tree["index"] for letter, tree in backward.items()}
        return {
            "letters": letters,
            "inputs": inputs,
            "parameters": dict(zip(letters[inputs:], op.parameters)),
            "result": result,
            "axes": axes,
            "forward": forward,
            "backward": backward,
        }
