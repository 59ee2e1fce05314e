"""Pictures of what is found inside a model: their cells and bars are its numbers, their texts its tokens."""

import importlib
import inspect

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError, plots
from numgpt.interpretability import (
    ablation,
    activation_patching,
    causal_tracing,
    direct_logit_attribution,
    head_scores,
    integrated_gradients,
    logit_difference,
    logit_lens,
    ov_circuit,
    path_patching,
    strongest_activations,
)
from numgpt.plots import neuron_contexts, style
from numgpt.tokenizers import Characters

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
matplotlib.use("Agg")
for part in ("colors", "figure", "patches", "pyplot"):  # of which a test may be the first to ask for
    importlib.import_module(f"matplotlib.{part}")

LETTERS = Characters(" abcdefg")
CLEAN, CORRUPTED = "ab ca", "ad ca"


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def model():
    """A model whose parameters are large, so that no layer is like another."""
    config = Config(vocab_size=8, block_size=8, n_layer=3, n_head=2, n_embd=8)
    model = GPT(config, seed=0, dtype="float64", tokenizer=LETTERS)
    model.params.flat *= 10
    return model


@pytest.fixture(scope="module")
def found(model):
    """Name of a picture → what it is drawn of."""
    metric = logit_difference(model, "a", "b")
    pair = (model, CLEAN, CORRUPTED, metric)
    return {
        "lens": logit_lens(model, CLEAN),
        "patching": activation_patching(*pair),
        "patching by head": activation_patching(*pair, "heads"),
        "patching of heads": activation_patching(*pair, "heads", positions=False),
        "patching of layers": activation_patching(*pair, "mlp", positions=False),
        "heads": head_scores(model),
        "tracing": causal_tracing(model, CLEAN, "b ", draws=2, window=1),
        "attribution": direct_logit_attribution(model, CLEAN, "a", "b", by_head=True),
        "token_attribution": integrated_gradients(model, CLEAN, metric),
        "ablation": ablation(model, CLEAN, metric),
        "ablation of names": ablation(model, CLEAN, metric, "h.*.mlp.act"),
        "path_patching": path_patching(*pair, (2, 1, "k")),
        "eigenvalues": ov_circuit(model, 1, 0),
        "neurons": strongest_activations(model, "abcdefg abba cafe dead bead", 1, [3, 0], k=3, context=6),
    }


def drawn(found, name, **options):
    """The picture of a name, with the texts of tokens where it has some."""
    function = getattr(plots, name.partition(" ")[0])
    if "tokenizer" in inspect.signature(function).parameters:
        options["tokenizer"] = LETTERS
    return function(found[name], **options)


def shown(ax):
    """The numbers of a map."""
    return ax.images[0].get_array()


def written(ax):
    """The texts in the cells of a map, by row and column."""
    return {tuple(int(n) for n in text.get_position()[::-1]): text for text in ax.texts}


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def is_upward(ax):
    """Whether the first row is the lowest."""
    low, high = ax.get_ylim()
    return low < high


def test_a_lens_shows_probabilities_and_writes_the_likeliest_token_bold_where_it_is_the_answer(found):
    lens, ax = found["lens"], drawn(found, "lens")
    np.testing.assert_array_equal(shown(ax), np.exp(lens.log_prob))
    assert is_upward(ax) and labels(ax.yaxis) == [
        "embeddings",
        *(f"after layer {n}" for n in range(3)),
    ]
    assert labels(ax.xaxis) == ["a", "b", "␣", "c", "a"]
    cells = written(ax)
    assert len(cells) == lens.kl.size
    for (row, column), text in cells.items():
        says = lens.top[row, column, 0]
        assert text.get_text() == style.token(LETTERS.decode([says]))
        assert (text.get_weight() == "bold") == (says == lens.answers[column])
    assert all(cells[3, column].get_weight() == "bold" for column in range(5))
    assert any(text.get_weight() == "normal" for text in cells.values())


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("patching", 3, ["a", "d", "␣", "c", "a"]),
        ("patching by head", 6, ["a", "d", "␣", "c", "a"]),
        ("patching of heads", 3, ["0", "1"]),
        ("patching of layers", 3, ["all tokens"]),
    ],
)
def test_a_map_of_patches_is_the_shares_around_zero(found, name, rows, columns):
    patching, ax = found[name], drawn(found, name)
    share = patching.share
    if name == "patching by head":
        share = np.stack([share[layer, :, head] for layer in range(3) for head in range(2)])
        assert labels(ax.yaxis)[3] == "layer 1, head 1"
    np.testing.assert_array_equal(shown(ax), share.reshape(rows, len(columns)))
    low, high = ax.images[0].get_clim()
    assert low == -high and high == abs(share).max()
    assert is_upward(ax) and labels(ax.xaxis) == columns
    middle = ax.images[0].get_cmap()(0.5)
    assert min(middle) > 0.99, "what brings nothing back is white"


def test_a_number_in_a_cell_is_the_cells_and_what_is_nothing_has_none(found):
    share, cells = found["patching"].share, written(drawn(found, "patching"))
    for place, text in cells.items():
        assert abs(float(text.get_text().replace("−", "-")) - share[place]) <= 0.05
    least = 0.03 * abs(share).max()
    assert set(cells) == {place for place, value in np.ndenumerate(share) if abs(value) >= max(0.005, least)}
    assert (0, 0) not in cells and abs(share[0, 0]) < 1e-12


def test_what_has_no_number_has_no_colour_of_the_scale(found):
    scores = head_scores(GPT(Config(vocab_size=8, block_size=8, n_layer=2, n_head=2, n_embd=8)), [0, 1, 2])
    figure = plots.heads(scores)
    by_kind = dict(zip(scores.scores, figure.axes))
    assert shown(by_kind["duplicate token"]).mask.all() and not by_kind["duplicate token"].texts
    assert not np.ma.getmaskarray(shown(by_kind["previous token"])).any()
    assert by_kind["duplicate token"].images[0].get_cmap().get_bad().tolist() == list(
        matplotlib.colors.to_rgba(style.NOTHING)
    )


def test_scores_of_heads_have_a_map_for_each_kind(found):
    scores, figure = found["heads"], drawn(found, "heads")
    assert len(figure.axes) == 4 + 1
    for (kind, values), ax in zip(scores.scores.items(), figure.axes):
        assert ax.get_title(loc="left") == kind
        np.testing.assert_array_equal(shown(ax), values)
        assert ax.images[0].get_clim() == (0, 1)


def test_tracing_has_a_map_for_each_state_on_one_scale_and_stars_at_the_subject(found):
    tracing, figure = found["tracing"], drawn(found, "tracing")
    largest = max(abs(effect).max() for effect in tracing.effect.values())
    for effect, ax in zip(tracing.effect.values(), figure.axes):
        np.testing.assert_array_equal(shown(ax), effect)
        assert ax.images[0].get_clim() == (-largest, largest)
    assert labels(figure.axes[2].xaxis) == ["a", "b*", "␣*", "c", "a"]
    assert f"{tracing.clean:.3g}" in figure.get_suptitle()


@pytest.mark.parametrize("most", [1, 4, 30])
def test_bars_of_parts_add_up_to_the_last_one_however_few_there_are(found, most):
    attribution = found["attribution"]
    ax = drawn(found, "attribution", most=most)
    widths = [bar.get_width() for bar in ax.patches]
    names = labels(ax.yaxis)
    assert len(widths) == min(most, len(attribution.names)) + 1 and names[-1] == "sum"
    assert abs(sum(widths[:-1]) - widths[-1]) <= 1e-12 * abs(attribution.value).sum()
    assert abs(widths[-1] - attribution.logits[0]) <= 1e-12 * abs(attribution.value).sum()
    value = dict(zip(attribution.names, attribution.value[:, 0]))
    assert all(value[name] == width for name, width in zip(names, widths) if name in value)
    if most == 4:
        assert names[-2] == f"{len(value) - 3} others"
        assert min(abs(value[n]) for n in names[:3]) >= max(
            abs(v) for n, v in value.items() if n not in names
        )


def test_bars_of_tokens_are_their_scores(found):
    ax = drawn(found, "token_attribution")
    np.testing.assert_array_equal(
        [bar.get_height() for bar in ax.patches], found["token_attribution"].score[0]
    )
    assert labels(ax.xaxis) == ["a", "b", "␣", "c", "a"]
    with pytest.raises(InputError, match=r"token_attribution: row is 1, expected 0 to 0"):
        drawn(found, "token_attribution", row=1)


def test_texts_of_neurons_end_at_the_strongest_token_the_strongest_first(found):
    neurons = found["neurons"]
    lines = neuron_contexts.lines_of(neurons, 0, LETTERS)
    assert [line.value for line in lines] == sorted((line.value for line in lines), reverse=True)
    for line, ids in zip(lines, neurons.context[0]):
        assert line.before + line.token == LETTERS.decode(ids[ids >= 0])
    ax = drawn(found, "neurons", most=1)
    texts = [text.get_text() for text in ax.texts]
    assert [text for text in texts if text.startswith("neuron")] == [texts[0]] and "neuron 3:" in texts[0]
    darkness = [-sum(patch.get_facecolor()[:3]) for patch in ax.patches]
    assert len(darkness) == 3 and darkness[0] > darkness[-1]


def test_ablations_and_paths_are_maps_around_zero(found):
    for name, numbers in (
        ("ablation", found["ablation"].effect),
        ("ablation of names", found["ablation of names"].effect[:, None]),
        ("path_patching", found["path_patching"].share),
    ):
        ax = drawn(found, name)
        np.testing.assert_array_equal(np.ma.getdata(shown(ax)), numbers)
        low, high = ax.images[0].get_clim()
        assert low == -high and high == np.nanmax(abs(numbers)) and is_upward(ax)
    assert labels(drawn(found, "ablation of names").yaxis) == [f"h.{n}.mlp.act" for n in range(3)]
    hidden = np.ma.getmaskarray(shown(drawn(found, "path_patching")))
    assert hidden[2].all() and not hidden[:2].any(), "heads of the receiver's layer send it nothing"


def test_eigenvalues_are_points_of_the_plane(found):
    circuit, ax = found["eigenvalues"], drawn(found, "eigenvalues")
    points = ax.collections[0].get_offsets()
    np.testing.assert_array_equal(points[:, 0] + 1j * points[:, 1], circuit.eigenvalues)
    assert f"{circuit.positive_share:+.2f}".replace("-", "−") in ax.get_title(loc="left")


PICTURES = ["lens", "patching", "heads", "tracing", "attribution", "token_attribution", "neurons"]
PICTURES += ["ablation", "path_patching", "eigenvalues"]


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_given_is_drawn_into_and_returned_and_nothing_else_is_touched(found, name):
    before = dict(matplotlib.rcParams)
    whole = matplotlib.figure.Figure()
    if name in ("heads", "tracing"):
        left, right = whole.subfigures(1, 2)
        assert drawn(found, name, figure=right) is right
        assert right.axes and not left.axes
    else:
        left, right = whole.subplots(1, 2)
        assert drawn(found, name, ax=right) is right
        assert right.get_title(loc="left") and not left.get_title(loc="left")
        assert not left.images and not left.patches and not left.texts
    assert not matplotlib.pyplot.get_fignums() and dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_numbers_give_the_same_file(found, name, tmp_path):
    for place in ("one.svg", "other.svg"):
        plots.save(drawn(found, name), tmp_path / place)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


def test_tokens_without_a_tokenizer_or_unknown_to_it_are_called_by_their_ids(model):
    assert style.tokens([2, 0, 9], LETTERS) == ["b", "␣", "9"] and style.tokens([1, 7], None) == ["1", "7"]
    assert labels(plots.lens(logit_lens(model, [0, 7])).xaxis) == ["0", "7"]
    assert numgpt.plots.patching is plots.patching
