"""What a config.json says of experts: how many, how they are weighted, and which layers have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..architecture.config import DEEPEST, Config
from .config_keys import Keys, is_count
from .features import Feature, Fields, first
from .llama_keys import shortest_cycle

ACTIVE = "num_experts_per_tok"
MOST = 2**17  # experts of all layers: each has parameters, whose names are made before a file is looked at
BY_LAYER = ("decoder_sparse_step", "mlp_only_layers")


def experts(count: str, is_normed: str = "") -> Feature:
    """Experts in all layers, of the width that a feed-forward has.

    count: the key of their number. is_normed: that of whether the weights of those chosen add up to 1, as
    they do where no key says it.
    """

    def read(keys: Keys, fields: Fields) -> Fields:
        return _expert_fields(keys, fields, count, is_normed)

    return Feature(_keys(count, is_normed), read, lambda config: _written(config, count, is_normed))


def experts_in_some(count: str, shared: str = "") -> Feature:
    """Experts in some layers, narrower than the feed-forwards of the others (Qwen 2 and 3).

    shared: the key of the width of an expert that computes all tokens.
    """

    def read(keys: Keys, fields: Fields) -> Fields:
        own = _expert_fields(keys, fields, count, "norm_topk_prob") | {
            "n_inner": keys.size("moe_intermediate_size")
        }
        if shared:
            own["shared_inner"] = keys.size(shared)
        return laid_over(
            fields, [own if is_sparse else {} for is_sparse in _sparse_layers(keys, fields, count)]
        )

    def write(config: Config) -> Fields:
        kinds = list(config.scopes().values()) or [config]
        sparse = next((kind for kind in kinds if kind.n_expert), kinds[0])
        dense = next((kind for kind in kinds if not kind.n_expert), kinds[0])
        stored = _written(sparse, count, "norm_topk_prob") | {
            "intermediate_size": dense.ffn_width,
            "moe_intermediate_size": sparse.ffn_width,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [i for i, kind in enumerate(kinds) if not kind.n_expert],
        }
        return stored | ({shared: sparse.shared_inner} if shared else {})

    more = ("moe_intermediate_size", *BY_LAYER, *filter(None, [shared]))
    return Feature((*_keys(count, "norm_topk_prob"), *more), read, write)


def _keys(count: str, is_normed: str) -> tuple[str, ...]:
    return (count, ACTIVE, *filter(None, [is_normed]))


def _expert_fields(keys: Keys, fields: Fields, count: str, is_normed: str) -> Fields:
    """The fields of a layer that has experts."""
    E, A, L = keys.size(count), keys.size(ACTIVE), fields["n_layer"]
    if is_count(L) and E * L > MOST:
        if L > MOST:
            keys.refuse("num_hidden_layers", f"at most {MOST:,} layers with experts")
        keys.refuse(count, f"at most {MOST:,} experts in {L} layers together")
    if A > E:
        keys.refuse(ACTIVE, f"at most {count} {E}")
    router = "renorm" if not is_normed or keys.flag(is_normed) else "raw"
    return {"n_expert": E, "n_expert_active": A, "router": router}


def _written(config: Config, count: str, is_normed: str) -> Fields:
    """Their keys, of the first layer unless a layer's own Config is given."""
    kind = first(config)
    stored: Fields = {count: kind.n_expert, ACTIVE: kind.n_expert_active}
    return stored | ({is_normed: kind.router == "renorm"} if is_normed else {})


def _sparse_layers(keys: Keys, fields: Fields, count: str) -> list[bool]:
    """Whether each layer has experts."""
    L, step, dense = fields["n_layer"], *(keys[key] for key in BY_LAYER)
    if not is_count(step):
        keys.refuse("decoder_sparse_step", "a number of layers, 1 or more")
    if not isinstance(dense, list) or not all(isinstance(i, int) for i in dense):
        keys.refuse("mlp_only_layers", "a list of layers")
    if not is_count(L):
        return []
    return [i not in dense and (i + 1) % step == 0 for i in range(min(L, DEEPEST))]


def laid_over(fields: Mapping[str, Any], kinds: list[Fields]) -> Fields:
    """Fields, and what each layer says otherwise besides what its kind says already."""
    already = fields.get("layers", ({},))
    joined = [already[i % len(already)] | kind for i, kind in enumerate(kinds)]
    said_by_all = set.intersection(*map(set, joined)) if joined else set()
    rest = {name: value for name, value in fields.items() if name not in {"layers", *said_by_all}}
    unread = dict.fromkeys(said_by_all & set(fields))  # each layer says its own
    defaults = {"n_inner": None, "n_expert": 0, "shared_inner": None} | rest
    differing = [{n: v for n, v in kind.items() if defaults.get(n, ...) != v} for kind in joined]
    cycle = shortest_cycle(differing)
    if len(cycle) > 1:
        return unread | {"layers": tuple(cycle)}
    return {"layers": None} | (dict(cycle[0]) if cycle else {})
