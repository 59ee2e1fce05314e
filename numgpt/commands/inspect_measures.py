"""What numgpt inspect measures: for each measure its numbers, a table, a picture, and for some a page."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError
from . import inspect_tables as tables

if TYPE_CHECKING:
    from ..interpretability.runs import Progress
    from ..model.gpt import GPT

TOP = 5
NEURONS = 8  # that are shown where none are named
DRAWS = 10


class Measured(NamedTuple):
    """What a measure gave.

    parts: what is printed, the first a table that a page of a picture has, too. facts: the numbers, as JSON
    holds them. draw: makes the figure. page: writes a page to a path; None where the picture says it all.
    """

    title: str
    parts: tuple[Any, ...]
    facts: dict[str, Any]
    draw: Callable[[], Any]
    page: Callable[[str], Any] | None = None


def measured(model: GPT, args: argparse.Namespace) -> Measured:
    """The result of the measure that was asked for."""
    function: Callable[[GPT, argparse.Namespace], Measured] = {
        "attention": _attention,
        "lens": _lens,
        "attribute": _attribute,
        "patch": _patch,
        "trace": _trace,
        "heads": _heads,
        "neurons": _neurons,
    }[args.measure]
    found = function(model, args)
    about = {"model": args.model, "measure": args.measure}
    if args.prompt is not None:
        about["prompt"] = args.prompt
    return found._replace(facts=tables.plain(about | found.facts))


def _attention(model: GPT, args: argparse.Namespace) -> Measured:
    from .. import pages, plots
    from ..interpretability import attention_maps
    from ..plots.attention_maps import chosen

    found = attention_maps(model, args.prompt)
    most = max(P.shape[1] for P in found.maps)
    layers = chosen("layers", args.layers, range(len(found.maps)))
    heads = chosen("heads", args.heads, range(most))
    texts = tables.token_texts(model, found.ids[0])
    shown = {(n, h): found.maps[n][0, h] for n in layers for h in heads if h < found.maps[n].shape[1]}

    def page(path: str) -> None:
        pages.attention(
            found, path, tokenizer=model.tokenizer, title=args.prompt, layers=args.layers, heads=args.heads
        )

    return Measured(
        f"attention: {args.prompt}",
        (tables.attention(shown, texts),),
        {
            "tokens": texts,
            "maps": [{"layer": n, "head": h, "attention": probs} for (n, h), probs in shown.items()],
        },
        lambda: plots.attention(model, args.prompt, layers=args.layers, heads=args.heads),
        page,
    )


def _lens(model: GPT, args: argparse.Namespace) -> Measured:
    from .. import plots
    from ..interpretability import logit_lens

    found = logit_lens(model, args.prompt, args.answer, k=args.top or TOP)
    texts = tables.token_texts(model, found.ids)
    top = [[tables.token_texts(model, ids) for ids in row] for row in found.top]
    answers = tables.token_texts(model, found.answers)
    facts = {
        "tokens": texts,
        "answers": answers,
        "streams": found.names,
        "kl": found.kl,
        "rank": found.rank,
        "log_probability": found.log_prob,
        "top": top,
    }
    return Measured(
        f"what each layer would say after: {args.prompt}",
        (tables.lens(found, top, answers[-1]),),
        facts,
        lambda: plots.lens(found, tokenizer=model.tokenizer),
    )


def _attribute(model: GPT, args: argparse.Namespace) -> Measured:
    from .. import plots
    from ..interpretability import direct_logit_attribution, integrated_gradients, logit_difference

    answer, wrong = _asked(model, args, args.prompt)
    names = tables.token_texts(model, [answer, wrong])
    if answer == wrong:
        raise InputError(f"inspect: --answer and --against are both {names[0]!r}, expected two tokens")
    facts: dict[str, Any] = {"answer": names[0], "against": names[1]}
    title = f"{names[0]!r} against {names[1]!r} after: {args.prompt}"
    if args.by == "tokens":
        by_token = integrated_gradients(model, args.prompt, logit_difference(model, answer, wrong))
        texts = tables.token_texts(model, by_token.ids[0])
        facts |= {"tokens": texts, "score": by_token.score[0], "baseline": by_token.baseline[0]}
        facts |= {"logit_difference": by_token.value[0], "missing": by_token.missing[0]}
        return Measured(
            title,
            tables.by_token(by_token, texts, names),
            facts,
            lambda: plots.token_attribution(by_token, tokenizer=model.tokenizer),
        )
    found = direct_logit_attribution(model, args.prompt, answer, wrong, by_head=args.by == "heads")
    facts |= {"parts": dict(zip(found.names, found.value[:, 0]))}
    facts |= {"logit_difference": found.logits[0], "missing": found.missing[0]}
    return Measured(title, tables.direct(found, names), facts, lambda: plots.attribution(found))


def _patch(model: GPT, args: argparse.Namespace) -> Measured:
    from .. import pages, plots
    from ..interpretability import (
        activation_patching,
        attribution_patching,
        logit_difference,
        rank_correlation,
    )

    at = args.at or "resid_pre"
    answer, wrong = _asked(model, args, args.prompt, args.corrupted)
    metric = logit_difference(model, answer, wrong)
    pair = (args.prompt, args.corrupted)
    with _progress("patch") as progress:
        found = activation_patching(model, *pair, metric, at, align=args.align, progress=progress)
    names, texts = tables.token_texts(model, [answer, wrong]), tables.token_texts(model, found.ids[0])
    facts = {
        "corrupted": args.corrupted,
        "answer": names[0],
        "against": names[1],
        "at": at,
        "axes": found.axes,
        "tokens": texts,
        "clean_metric": found.clean,
        "corrupted_metric": found.corrupted,
        "share": found.share,
    }
    parts = [tables.patching(found, texts), tables.patching_note(found, names)]
    if args.estimate:
        estimate = attribution_patching(model, *pair, metric, at, align=args.align)[at]
        try:
            alike = rank_correlation(estimate.share, found.share)
        except InputError:  # all shares are the same, and have no order
            alike = float("nan")
        facts |= {"estimate": estimate.share, "rank_correlation": alike}
        said = "no rank correlation, for all are alike" if alike != alike else f"rank correlation {alike:.3f}"
        parts += [tables.patching(estimate, texts), f"the estimate by one gradient; {said}"]
    title = f"{args.prompt} | {args.corrupted}"
    return Measured(
        f"patching: {title}",
        tuple(parts),
        facts,
        lambda: plots.patching(found, tokenizer=model.tokenizer),
        lambda path: pages.patching(found, path, tokenizer=model.tokenizer, title=title),
    )


def _trace(model: GPT, args: argparse.Namespace) -> Measured:
    from .. import plots
    from ..interpretability import causal_tracing

    window = args.window or min(10, max(1, model.config.n_layer // 3))
    with _progress("run") as progress:
        found = causal_tracing(
            model,
            args.prompt,
            args.subject,
            args.answer,
            window=window,
            draws=args.draws or DRAWS,
            seed=args.seed or 0,
            progress=progress,
        )
    texts = tables.token_texts(model, found.ids)
    answer = tables.token_texts(model, [found.answer])[0]
    facts = {
        "tokens": texts,
        "subject": found.subject,
        "answer": answer,
        "clean": found.clean,
        "noised": found.noised,
        "noise": found.noise,
        "window": window,
        "effect": dict(found.effect),
    }
    return Measured(
        f"tracing {args.subject!r} in: {args.prompt}",
        tables.tracing(found, texts, answer),
        facts,
        lambda: plots.tracing(found, tokenizer=model.tokenizer),
    )


def _heads(model: GPT, args: argparse.Namespace) -> Measured:
    from .. import plots
    from ..interpretability import head_scores

    found = head_scores(model, args.prompt, seed=args.seed or 0)
    best = {kind: _best(found, kind) for kind in found.scores}
    return Measured(
        f"heads of {args.model}",
        (tables.heads(found),),
        {"scores": dict(found.scores), "best": best},
        lambda: plots.heads(found),
    )


def _best(found: Any, kind: str) -> dict[str, Any] | None:
    """The head that scores highest; None where a kind has no score, as where no token is repeated."""
    if np.isnan(found.scores[kind]).all():
        return None
    layer, head, score = found.best(kind)
    return {"layer": layer, "head": head, "score": score}


def _neurons(model: GPT, args: argparse.Namespace) -> Measured:
    from .. import plots
    from ..interpretability import strongest_activations

    layer = model.config.n_layer // 2 if args.layer is None else args.layer
    corpus = args.prompt if args.data is None else _read(args.data)
    with _progress("window") as progress:
        found = strongest_activations(
            model, corpus, layer, args.neurons, k=args.top or TOP, progress=progress
        )
    if args.neurons is None:
        found = tables.strongest(found, NEURONS)
    contexts = [
        [tables.token_texts(model, ids[ids >= 0]) for ids in of_neuron] for of_neuron in found.context
    ]
    facts = {
        "layer": found.layer,
        "tokens_read": found.tokens,
        "neurons": [
            {
                "neuron": neuron,
                "mean": found.mean[n],
                "share_above_0": found.share[n],
                "strongest": [
                    {"activation": value, "context": texts}
                    for value, texts in zip(found.value[n], contexts[n])
                ],
            }
            for n, neuron in enumerate(found.neurons)
        ],
    }
    return Measured(
        f"neurons of layer {found.layer}",
        (tables.neurons(found, contexts),),
        facts,
        lambda: plots.neurons(found, tokenizer=model.tokenizer),
    )


def _read(paths: Sequence[str]) -> str:
    from ..data.text import read

    return read(paths)


def _asked(model: GPT, args: argparse.Namespace, clean: str, corrupted: str | None = None) -> tuple[int, int]:
    """The answer and what it is compared with, as ids.

    Unless named, the answer is what the model says; against it stands the likeliest other token, after the
    corrupted prompt where there is one: what the model says instead.
    """
    from ..interpretability.prompts import answer_ids
    from ..model.prompts import ids_of

    def order(prompt: str) -> Any:
        flag = "--prompt" if prompt == clean else "--corrupted"
        return np.argsort(-model(ids_of(f"inspect: {flag}", model, prompt)[None])[0, -1], kind="stable")

    answer = order(clean)[0] if args.answer is None else answer_ids("inspect", model, args.answer)[0]
    if args.against is not None:
        return int(answer), answer_ids("inspect", model, args.against)[0]
    others = order(clean if corrupted is None else corrupted)
    return int(answer), int(next(token for token in others if token != answer))


@contextlib.contextmanager
def _progress(unit: str) -> Iterator[Progress]:
    """A function of (done, total) that moves a bar; no bar where nobody looks."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, leave=False, delay=1) as bar:

        def move(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield move
