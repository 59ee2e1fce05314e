"""The page's engine in headless Chromium: its scripts alone, with arrays handed over bit by bit."""

import base64
from pathlib import Path

import numpy as np
import pytest

import numgpt

WEB = Path(numgpt.__file__).parent / "pages" / "web"
SCRIPTS = ("ops.js", "engine.js")

HARNESS = """
"use strict";
const N = { strings: (key, values = {}) => key + " " + JSON.stringify(values) };
const floats = (text) => new Float64Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const text = (array) => {
  const bytes = new Uint8Array(Float64Array.from(array).buffer);
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
};
const map = (object, f) => Object.fromEntries(Object.entries(object).map(([name, one]) => [name, f(one)]));
const setting = (given) => {
  return { ...given, params: map(given.params, floats), patch: map(given.patch ?? {}, patchOf) };
};
const patchOf = (given) => {
  if (typeof given === "string") return floats(given);
  if (given.alone) return eval(given.alone);
  if (given.pair) return given.pair.map((f) => eval(f));
  return given.values ? { ...given, values: floats(given.values) } : given;
};
const run = (given) => {
  const { value, grad, parts, shape, loss } = N.engine.run(setting(given));
  const texts = (arrays) => map(arrays, text);
  return { value: texts(value), grad: texts(grad), parts: map(parts, texts), shape, loss };
};
const losses = (given, name, moves) => {
  const { params, ...rest } = setting(given);
  return moves.map(([offset, step]) => {
    const moved = { ...params, [name]: params[name].slice() };
    moved[name][offset] += step;
    return N.engine.run({ ...rest, params: moved, backward: false }).loss;
  });
};
"""


@pytest.fixture(scope="module")
def engine(browser):
    """The engine, ready to be asked."""
    return Engine(browser)


class Engine:
    """numgpt.pages' engine in a page of its own. planted: (what is written, what is written instead)."""

    def __init__(self, browser, planted=("", "")):
        scripts = "\n".join((WEB / script).read_text("utf-8") for script in SCRIPTS)
        assert planted[0] in scripts
        self.page = browser.new_page()
        self.page.add_script_tag(content=HARNESS + scripts.replace(*planted, 1))

    def run(self, model, tokens, targets=None, **given):
        """Values, gradients, parts and shapes by name, and the loss."""
        found = self.page.evaluate("given => run(given)", _setting(model, tokens, targets, given))
        shape = found["shape"]
        for kind in ("value", "grad"):
            found[kind] = {name: _floats(text, shape[name]) for name, text in found[kind].items()}
        for name, parts in found["parts"].items():
            found["parts"][name] = {place: _floats(text, shape[name]) for place, text in parts.items()}
        return found

    def losses(self, model, tokens, targets, name, moves, **given):
        """The loss after each move (offset, step) of one number of a parameter."""
        asked = [_setting(model, tokens, targets, given), name, moves]
        return self.page.evaluate("asked => losses(...asked)", asked)

    def supports(self, config):
        """Why the engine does not run a Config, or None."""
        return self.page.evaluate("config => N.engine.supports(config)", config)

    def refusal(self, model, tokens, targets=None, **given):
        """The error's message."""
        asked = _setting(model, tokens, targets, given)
        return self.page.evaluate(
            "given => { try { run(given); return 'none'; } catch (error) { return error.message; } }", asked
        )


def packed(array):
    """An array's bits as text, for the page."""
    return base64.b64encode(np.ascontiguousarray(array, "<f8").tobytes()).decode()


def _setting(model, tokens, targets, given):
    params = {name: packed(model.params[name]) for name in model.params}
    ids = {"tokens": _nested(tokens), "targets": _nested(targets)}
    return {"config": vars(model.config), "params": params, **ids, **given}


def _nested(ids):
    return ids.tolist() if isinstance(ids, np.ndarray) else ids


def _floats(text, shape):
    return np.frombuffer(base64.b64decode(text), "<f8").reshape(shape)
