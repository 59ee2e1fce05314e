"""Chat templates by name, and of a state that was saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..arguments import checked
from ..errors import InputError, did_you_mean
from ..storage.atomic import StrPath
from .chat_templates import TEMPLATES, ChatTemplate
from .jinja_templates import JinjaTemplate, from_tokenizer_config


@checked
def chat_template(name: StrPath) -> ChatTemplate | JinjaTemplate:
    """The template of a name, or the one in a tokenizer_config.json, its folder or a .jinja file.

    plain    "User:", the text, "Assistant:", the response; for any tokenizer
    bare     the texts alone
    chatml   <|im_start|>user …<|im_end|>, OpenAI's and Qwen's
    llama    Llama 3's headers

    Raises
    ------
    InputError
        Where it is neither a name nor a file with a template.

    Examples
    --------
    >>> from numgpt import data
    >>> data.chat_template("chatml").end
    '<|im_end|>'
    """
    if isinstance(name, str) and name in TEMPLATES:
        return TEMPLATES[name]
    if os.path.exists(name):
        return from_tokenizer_config(name)
    raise InputError(
        f"template: {os.fspath(name)!r} is unknown, expected {', '.join(TEMPLATES)}, or the path of a"
        f" tokenizer_config.json{did_you_mean(os.fspath(name), TEMPLATES)}"
    )


@checked
def template_from_state(state: Mapping[str, Any]) -> ChatTemplate | JinjaTemplate:
    """The template of a state, which template.state() gave; InputError where it is none."""
    kinds: dict[str, type[ChatTemplate] | type[JinjaTemplate]] = {
        "data": ChatTemplate,
        "jinja": JinjaTemplate,
    }
    kind = state.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(f"template: type {kind!r} is unknown, expected one of {', '.join(kinds)}")
    return kinds[kind].from_state(state)
