"""Pictures: lines are the log's numbers, what differs is named, and the same picture is the same file."""

import html.parser
import importlib
import json
import re
import shutil

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError, plots
from numgpt.__main__ import main
from numgpt.plots import gradient_map, style
from numgpt.plots.attention_maps import attention_maps
from numgpt.tokenizers import Characters

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
matplotlib.use("Agg")
for part in ("colors", "figure", "pyplot"):  # of which a test may be the first to ask for
    importlib.import_module(f"matplotlib.{part}")

TRAIN = (
    "train --preset gpt-nano --n-layer 2 --n-head 2 --n-embd 8 --block-size 16 --batch-size 2 --eval-iters 1"
)
TRAIN += " --tokenizer chars --eval-interval 4 --warmup 2 --sample-tokens 0 --steps 12"
SIZES = {"block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 8}
XML = r'xmlns(?::\w+)?="[^"]*"'


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the runs a and b, which differ in the learning rate."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "text.txt"
    text.write_text("she sells sea shells by the sea shore, and the shells she sells are sea shells. " * 40)
    for name, lr in (("a", "0.001"), ("b", "0.01")):
        words = [*TRAIN.split(), "--data", str(text), "--lr", lr, "--out", str(folder / name)]
        assert main(words) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """The runs, in a folder of the test's own that is the working folder."""
    for name in "ab":
        shutil.copytree(trained / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model():
    """A model whose parameters are large, so that nothing of it is near 0."""
    model = GPT(Config(vocab_size=8, **SIZES), seed=0, dtype="float64", tokenizer=Characters("abcdefgh"))
    model.params.flat *= 10
    return model


def logged(folder, key):
    """(steps, numbers) of the entries of a log that have a key."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    pairs = [(entry["step"], entry[key]) for entry in entries if key in entry]
    return np.array(pairs, float).T


def line(ax, gid):
    """(x, y) of the line of a gid."""
    (found,) = (line for line in ax.lines if line.get_gid() == gid)
    return np.array(found.get_data(), float)


def rewrite(folder, change):
    """Change the entries of a log."""
    path = folder / "log.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in change(entries)))


# Lines.


def test_the_lines_of_the_losses_are_the_numbers_of_the_log_and_the_best_is_marked(here):
    ax = plots.loss("runs/a")
    np.testing.assert_array_equal(line(ax, "training 0"), logged(here / "runs/a", "loss"))
    steps, losses = logged(here / "runs/a", "held_out_loss")
    np.testing.assert_array_equal(line(ax, "held-out 0"), [steps, losses])
    best = losses.argmin()
    np.testing.assert_array_equal(line(ax, "best 0").ravel(), [steps[best], losses[best]])


@pytest.mark.parametrize(
    ("draw", "key", "gid"),
    [
        (plots.gradient_norm, "norm", "norm 1"),
        (plots.learning_rate, "lr", "lr 1"),
        (plots.tokens_per_second, "tokens_per_s", "tokens_per_s 1"),
    ],
)
def test_every_other_line_is_the_numbers_of_the_log(here, draw, key, gid):
    np.testing.assert_array_equal(line(draw(["runs/a", "runs/b"]), gid), logged(here / "runs/b", key))


def test_curves_are_the_four_pictures_in_one(here):
    panels = plots.curves(["runs/a", "runs/b"]).axes
    assert [ax.get_ylabel() for ax in panels] == [
        "loss (nats per token)",
        "‖gradient‖",
        "learning rate",
        "tokens per second",
    ]
    gids = ("training 1", "norm 1", "lr 1", "tokens_per_s 1")
    for ax, gid, key in zip(panels, gids, ("loss", "norm", "lr", "tokens_per_s")):
        np.testing.assert_array_equal(line(ax, gid), logged(here / "runs/b", key))
    assert [ax.get_legend() is not None for ax in panels] == [True, False, False, False]


DRAWN = [plots.loss, plots.gradient_norm, plots.learning_rate, plots.tokens_per_second]


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_what_is_given_is_drawn_into_and_returned_and_nothing_else_is_touched(here, draw):
    before = dict(matplotlib.rcParams)
    figure, (left, right) = matplotlib.pyplot.subplots(1, 2)
    assert draw("runs/a", ax=right) is right
    assert right.lines and right.get_title(loc="left") and right.get_xlabel() and right.get_ylabel()
    assert not left.lines and matplotlib.pyplot.get_fignums() == [figure.number]
    assert dict(matplotlib.rcParams) == before


def test_figures_that_are_given_are_drawn_into_and_returned(here, model):
    whole = matplotlib.figure.Figure()
    parts = whole.subfigures(1, 3)
    assert plots.curves("runs/a", figure=parts[0]) is parts[0]
    assert plots.gradients(model, [0, 1, 2], [1, 2, 3], figure=parts[1]) is parts[1]
    assert plots.attention(model, "abc", figure=parts[2]) is parts[2]
    assert [len(part.axes) for part in parts] == [4, 3, 7]
    assert not matplotlib.pyplot.get_fignums()


def test_tokens_and_seconds_are_those_of_the_steps_up_to_each(here):
    steps, tokens = logged(here / "runs/a", "tokens")
    assert (tokens == 2 * 16).all()
    np.testing.assert_array_equal(line(plots.loss("runs/a", x="tokens"), "training 0")[0], np.cumsum(tokens))
    seconds = np.cumsum(tokens / logged(here / "runs/a", "tokens_per_s")[1])
    ax = plots.loss("runs/a", x="seconds")
    np.testing.assert_allclose(line(ax, "training 0")[0], seconds)
    assert line(ax, "held-out 0")[0].tolist() == [0, seconds[3], seconds[7], seconds[11]]
    rewrite(here / "runs/a", lambda entries: [{k: v for k, v in e.items() if k != "tokens"} for e in entries])
    with pytest.raises(InputError, match="does not say how many tokens each step took"):
        plots.loss("runs/a", x="tokens")


def test_a_smooth_line_is_the_mean_of_the_last_steps():
    losses = [5.0, 3.0, float("nan"), 1.0]
    run = plots.Run("mine", [{"step": n, "loss": loss} for n, loss in enumerate(losses)])
    assert line(plots.loss(run, smooth=2), "training 0")[1].tolist() == [5, 4, 3, 1]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_legend_names_what_differs_and_nothing_else(here):
    one, other = legend(plots.loss(["runs/a", "runs/b"]))[2:]
    assert one.startswith("runs/a: lr 0.001; best ") and other.startswith("runs/b: lr 0.01; best ")
    assert not any("runs" in text or "lr" in text for text in legend(plots.loss("runs/a")))
    mine = {"slow": "runs/a", "fast": plots.read("runs/b")}
    assert [text.split(":")[0] for text in legend(plots.loss(mine))[2:]] == ["slow", "fast"]


def test_of_many_settings_that_differ_three_are_named_and_the_seed_last():
    settings = [{"seed": n, "lr": n, "steps": n, "clip": n, "same": 1} for n in (1, 2)]
    runs = [plots.Run("r", [{"step": 1, "norm": 1.0}], s) for s in settings]
    assert legend(plots.gradient_norm(runs)) == ["r: lr 1, steps 1, clip 1, …", "r: lr 2, steps 2, clip 2, …"]
    assert plots.table(runs).head[:5] == ("run", "lr", "steps", "clip", "seed")


def test_colours_stay_apart_in_greyscale_and_every_run_has_its_own_look():
    light = [np.dot(matplotlib.colors.to_rgb(c), (0.2126, 0.7152, 0.0722)) for c in style.COLOURS[:4]]
    assert np.diff(sorted(light)).min() > 0.15
    assert len({str(style.look(n)) for n in range(32)}) == 32


# The log.


def test_a_step_that_a_killed_run_repeats_is_drawn_once(here):
    ran = plots.read("runs/a").training["loss"]
    rewrite(
        here / "runs/a", lambda entries: entries[:9] + [e | {"loss": 9.0} for e in entries[4:6]] + entries[6:]
    )
    again = plots.read("runs/a").training
    assert again["step"].tolist() == list(range(1, 13))
    assert (again["loss"] != ran).sum() <= 2


def test_a_torn_last_line_is_that_of_a_run_that_still_goes_on(here, recwarn):
    whole = plots.read("runs/a").training["step"]
    with (here / "runs/a/log.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    assert plots.read("runs/a").training["step"].tolist() == whole.tolist()
    assert not recwarn.list


def test_lines_of_something_else_are_left_out_and_counted(here):
    with (here / "runs/a/log.jsonl").open("a") as file:
        file.write('nonsense\n[1]\n{"loss": 3}\n')
    with pytest.warns(UserWarning, match="3 lines of it are not of a log and left out"):
        assert plots.read("runs/a").steps == 12


def test_a_loss_that_is_not_finite_is_a_gap(here):
    path = here / "runs/a/log.jsonl"
    path.write_text(re.sub(r'("step": 5, "loss": )[\d.]+', r"\1NaN", path.read_text()))
    losses = line(plots.loss("runs/a"), "training 0")[1]
    assert np.flatnonzero(np.isnan(losses)).tolist() == [4]
    path.write_text('{"step": 1, "loss": Infinity}\n')
    with pytest.raises(InputError, match=r"^runs/a: its log has no finite loss"):
        plots.loss("runs/a")


def test_what_tells_runs_apart_and_is_no_setting_is_warned_of(here):
    path = here / "runs/b/last/state.json"
    path.write_text(path.read_text().replace('"digest": "', '"digest": "0'))
    with pytest.warns(UserWarning, match="runs/a and runs/b have other texts or tokens"):
        plots.loss(["runs/a", "runs/b"])
    path.write_text("{}")
    with pytest.warns(UserWarning, match="runs/b: its settings are not known"):
        assert plots.read("runs/b").settings == {}


def test_a_run_a_checkpoint_in_it_and_its_log_are_one_run(here):
    runs = [plots.read(place) for place in ("runs/a", "runs/a/best", "runs/a/last", "runs/a/log.jsonl")]
    assert len({run.best for run in runs}) == 1 and runs[0].settings == runs[3].settings
    assert runs[0].settings["n_embd"] == 8 and runs[0].settings["lr"] == 0.001


# Maps.


def test_the_map_of_gradients_is_the_norms_of_the_gradients(model):
    record = model.record([0, 1, 2, 3], [1, 2, 3, 4])
    left, right, _ = plots.gradients(record.trace()).axes
    shown = left.images[0].get_array()
    kinds = [text.get_text() for text in left.get_yticklabels()]
    assert shown.shape == (len(kinds), 3) and "mlp.c_fc.bias" in kinds
    for row, kind in zip(shown, kinds):
        np.testing.assert_allclose(row, [np.linalg.norm(record.grad[f"h.{i}.{kind}"]) for i in range(3)])
    apart = dict(zip([t.get_text() for t in right.get_yticklabels()], right.images[0].get_array().ravel()))
    for place in ("lm_head", "wte"):
        part = np.linalg.norm(record.parts["wte.weight"][place])
        np.testing.assert_allclose(apart[f"wte.weight as {place}"], part)
    assert "wpe.weight" in apart and len(apart) == 5


def test_a_model_and_its_trace_give_one_map_and_values_have_their_own(model):
    batch = ([0, 1, 2], [1, 2, 3])
    maps = [plots.gradients(*given).axes[0] for given in ((model, *batch), (model.record(*batch).trace(),))]
    np.testing.assert_array_equal(*(ax.images[0].get_array() for ax in maps))
    values = plots.gradients(model, *batch, which="values").axes[0]
    kinds = [text.get_text() for text in values.get_yticklabels()]
    assert "attn.heads.probs" in kinds and "whole layer" in kinds and "ln_1.weight" not in kinds


def test_names_of_other_programs_have_their_layers_too():
    norms = {"transformer.h.0.w": 1.0, "transformer.h.11.w": 2.0, "head": 3.0}
    layers, apart = gradient_map.grid(norms)
    assert (layers.kinds, layers.columns, apart) == (["w"], [0, 11], {"head": 3.0})
    layers, _ = gradient_map.grid({"encoder.0.w": 1.0, "decoder.0.w": 2.0, "decoder.1": 3.0})
    assert layers.kinds == ["encoder.w", "decoder.w", "decoder.whole layer"]
    np.testing.assert_array_equal(layers.norms, [[1, np.nan], [2, np.nan], [np.nan, 3]])


def test_a_gradient_of_zero_has_no_colour_of_the_scale():
    trace = numgpt.Trace(grad={"h.0.w": np.zeros(3), "h.1.w": np.ones(4)}, parameters=("h.0.w", "h.1.w"))
    image = plots.gradients(trace).axes[0].images[0]
    assert image.get_array().mask.tolist() == [[True, False]]
    assert image.get_array()[0, 1] == 2
    with pytest.raises(InputError, match="no gradients of values"):
        plots.gradients(trace, which="values")


def test_the_maps_of_attention_are_the_probabilities_and_nothing_ahead_is_shown(model):
    figure = plots.attention(model, "abcd")
    record = model.record([0, 1, 2, 3])
    assert len(figure.axes) == 3 * 2 + 1
    for n, ax in enumerate(figure.axes[:6]):
        layer, head = divmod(n, 2)
        shown = ax.images[0].get_array()
        probs = record.value[f"h.{layer}.attn.heads.probs"][head]
        assert ax.get_title(loc="left") == f"layer {layer}, head {head}"
        np.testing.assert_array_equal(shown.filled(0), probs)
        np.testing.assert_array_equal(shown.mask, ~np.tri(4, dtype=bool))
    assert [text.get_text() for text in figure.axes[4].get_xticklabels()] == list("abcd")
    chosen = plots.attention(record.trace(), layers=[2], heads=[1]).axes
    np.testing.assert_array_equal(chosen[0].images[0].get_array().filled(0), probs)


def test_what_a_prefix_reads_ahead_is_shown(model):
    seen = numgpt.Visibility.prefix([2], 4)
    trace = model.record([[0, 1, 2, 3]], visibility=seen).trace()
    assert not np.ma.getmaskarray(attention_maps(trace)[0]).any()


def test_tokens_are_shown_as_they_are_where_the_font_can():
    assert style.token(" a\n$x$\t中\x00") == "␣a↵\\$x\\$⇥\\u4e2d\\x00"
    figure = matplotlib.figure.Figure()
    text = figure.text(0, 0, style.token("$x$"))
    narrow, wide = (figure.text(0, 0, style.token(t)).get_window_extent().width for t in ("x", "$x$"))
    assert narrow < text.get_window_extent().width == wide


# Files.


class Tags(html.parser.HTMLParser):
    """What a page opens, closes and refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.cells = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.references += [url for _, value in attrs for url in re.findall(r"url\((.*?)\)", value or "")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *(("", suffix) for suffix in (".svg", ".html", ".png", ".pdf")),
        *((kind, ".svg") for kind in ("--curves", "--gradients", "--attention --prompt she")),
    ],
)
def test_the_same_picture_is_the_same_file(here, kind, suffix, capsys):
    for name in ("one", "other"):
        assert main(["plot", "runs/a", *kind.split(), "-o", name + suffix]) == 0
    assert (here / f"one{suffix}").read_bytes() == (here / f"other{suffix}").read_bytes()
    assert capsys.readouterr().err.splitlines()[-1] == f"picture: other{suffix}"


def test_a_page_holds_picture_and_table_parses_and_refers_to_nothing_outside(here):
    shutil.copytree("runs/b", "runs/<b>&$1$")
    assert main(["plot", "runs/a", "runs/<b>&$1$", "-o", "page.html"]) == 0
    page = (here / "page.html").read_text("utf-8")
    tags = Tags(page)
    assert not tags.open
    assert tags.references and all(r.startswith(("#", "data:image/png;base64,")) for r in tags.references)
    assert "http" not in re.sub(XML, "", page)
    assert tags.cells[:2] == ["run", "lr"] and "runs/<b>&$1$" in tags.cells and "0.01" in tags.cells


def test_the_table_is_printed_and_axes_are_what_was_asked_for(here, capsys):
    assert main(["plot", "runs/a", "runs/b", "--log-x", "--log-y", "--smooth", "3"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["run", "lr"] and [row.split()[1] for row in rows] == ["0.001", "0.01"]
    assert (here / "loss.png").exists()


def test_a_table_of_gradients_is_printed(here, capsys):
    assert main(["plot", "runs/a", "--gradients", "--of", "values", "--prompt", "she sells"]) == 0
    assert main(["plot", "runs/a/best", "--gradients"]) == 0
    assert "wte.weight as lm_head" in capsys.readouterr().out


def test_a_trace_is_drawn_from_its_file(here, model):
    model.record([0, 1, 2], [1, 2, 3]).trace().save("trace.safetensors")
    assert main(["plot", "trace.safetensors", "--gradients"]) == 0
    assert main(["plot", "trace.safetensors", "--attention", "--layers", "0,2", "--heads", "1"]) == 0


def test_a_script_saves_or_shows(here, monkeypatch):
    shown = []
    monkeypatch.setattr(matplotlib.pyplot, "show", lambda: shown.append(True))
    ax = plots.loss("runs/a")
    plots.save_or_show(ax, "loss.svg")
    assert (here / "loss.svg").exists() and not shown
    plots.save_or_show(ax.figure)
    assert shown


# Bad input.


def test_every_picture_says_in_a_line_what_is_wrong_with_its_arguments(model, tmp_path):
    trace = model.record([0, 1]).trace()
    bare = GPT(Config(vocab_size=8, **SIZES))
    run = plots.Run("r", [{"step": 1, "loss": 1.0}])
    for call, message in [
        (lambda: plots.loss([]), "loss: runs is empty"),
        (lambda: plots.loss(3), "loss: runs is of type int"),
        (lambda: plots.loss([3]), "loss: runs is of type int"),
        (lambda: plots.loss(run, ax=3), "loss: ax is int, expected axes of matplotlib"),
        (lambda: plots.curves(run, figure=3), "curves: figure is int"),
        (lambda: plots.loss(run, x="tokens"), "r: its log does not say how many tokens"),
        (lambda: plots.save(3, "x.png"), "save: figure is int"),
        (lambda: plots.save(plots.loss(run), tmp_path / "x.jpg"), "ends with .jpg, expected a name that"),
        (lambda: plots.gradients(model), "gradients: tokens is None"),
        (lambda: plots.gradients(trace), "the trace has no gradients of parameters"),
        (lambda: plots.gradients(trace, [0], [0]), "gradients: a Trace has its batch"),
        (lambda: plots.attention(model), "attention: prompt is None"),
        (lambda: plots.attention(model, ""), "attention: prompt has no tokens"),
        (lambda: plots.attention(model, [[0]]), "attention: prompt has the shape"),
        (lambda: plots.attention(bare, "ab"), "the model has no tokenizer"),
        (lambda: plots.attention(model, "abcdefgha"), "prompt has 9 tokens, expected at most 8"),
        (lambda: plots.attention(trace, "ab"), "attention: a Trace has its tokens"),
        (lambda: plots.attention(numgpt.Trace()), r"the trace has no h\.\*\.attn"),
        (lambda: plots.attention(trace, layers=[3]), "attention: layers has 3, expected some of 0 to 2"),
        (lambda: plots.attention(trace, heads=[]), "attention: heads is empty"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run/a", "run/a: does not exist, expected the folder of a run.*did you mean runs/a"),
        ("runs", "runs: holds no log.jsonl"),
        ("empty", "empty/log.jsonl: has no entries yet"),
        (
            "runs/a -o x.jpg",
            r"x.jpg: ends with .jpg, expected a name that ends with .png, .svg, .pdf or .html",
        ),
        ("runs/a -o x", "x: has no ending"),
        ("runs/a -o none/x.png", "none/x.png: its folder does not exist"),
        ("runs/a --dpi 5", "plot: --dpi is 5, expected an integer from 20 to 1200"),
        ("runs/a --attention", "--attention needs --prompt"),
        ("runs/a --attention --prompt xyz", "'x'"),
        ("runs/a --attention --prompt she,she,she,she,she", "prompt has 19 tokens, expected at most 16"),
        ("runs/a runs/b --attention --prompt she", "is of one model, expected one RUN: leave out runs/b"),
        ("runs/a --prompt she", "--prompt needs --gradients or --attention"),
        ("runs/a --gradients --x tokens", "--x is of losses and curves, expected no --gradients beside it"),
        ("runs/a --gradients --prompt s", "less than two tokens"),
        ("runs/a --attention --prompt she --layers 9", "layers has 9, expected some of 0 to 1"),
        ("runs/a --layers x", "'x' is not a list of numbers"),
        ("model --gradients", "model is no run with a text of its own, expected --prompt TEXT"),
        ("runs/a/log.jsonl --gradients", "log.jsonl"),
        ("runs/a --curves --gradients", "not allowed with"),
        ("runs/a --smooth 0", "is 0, expected 1 or more"),
    ],
)
def test_what_cannot_be_drawn_is_a_line_and_status_2(here, words, message, model, capsys):
    (here / "empty").mkdir()
    (here / "empty/log.jsonl").touch()
    model.save(here / "model")
    assert main(["plot", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1
    assert re.search(message, err), err
    assert not list(here.glob("*.png"))


def test_without_a_run_the_newest_is_drawn(here, capsys):
    assert main(["plot"]) == 2
    assert "there is no run under runs/" in capsys.readouterr().err
    shutil.move("runs/a", "runs/7")
    assert main(["plot"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("runs/7 ")


def test_runs_of_long_names_are_told_by_their_ends_and_a_label_leaves_room_for_the_lines(here):
    folder = here / "a folder whose name says whatever its owner wanted it to say" / "deeper"
    for name in ("a/x", "b/x"):
        shutil.copytree(here / "runs" / name[0], folder / name)
    ax = plots.loss([folder / "a/x", folder / "b/x"])
    texts = [text.get_text() for text in ax.get_legend().get_texts()][2:]
    assert [text.partition(":")[0] for text in texts] == ["a/x", "b/x"]
    assert all(len(line) < 100 for text in texts for line in text.splitlines())
