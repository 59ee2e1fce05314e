"""The command line: numgpt and the name of a command."""

import contextlib
import dataclasses
import os
import sys
import warnings
from pathlib import Path

from .architecture import presets
from .architecture.config import Config, Training, from_dict
from .commands.flags import parser
from .commands.proofs import check, curvature, diff, verify
from .commands.tokenizer import tokenizer
from .engine import out_of_memory, set_threads, use
from .errors import InputError

# How CuPy, and NumPy of CuPy's arrays, say that one of the GPU and what takes those of the host were brought
# together.
MIXED = (
    "Implicit conversion to a NumPy array is not allowed",
    "Unsupported type <class 'numpy.ndarray'>",
    "no implementation found for 'numpy.",
    "all returned NotImplemented from __array_ufunc__",
)


def main(argv=None):
    """Run a command; returns the exit status: 0, 1 for a failed check or run, 2 for input that cannot be
    used, 130 when stopped.
    """
    if sys.stdout is None or sys.stderr is None:  # closed by the shell: >&-
        sys.stdout, sys.stderr = (s or open(os.devnull, "w") for s in (sys.stdout, sys.stderr))
    for output in (sys.stdout, sys.stderr):
        if hasattr(output, "reconfigure"):
            output.reconfigure(errors="replace")  # a terminal that cannot show a character shows ? instead
    try:
        args = parser(COMMANDS).parse_args(argv)
        if args.tf32 and args.engine != "cupy":
            raise InputError("--tf32 is of the cupy engine alone, expected --engine cupy beside it")
        if args.engine:
            use(args.engine, args.tf32)
        if args.threads:
            set_threads(args.threads)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(f"numgpt: {_one_line(message)}")
            status = args.run(args)
        sys.stdout.flush()
        return status
    except InputError as error:
        print(f"numgpt: {_one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output went away, as head does
        _forget_output()
        return 1
    except OSError as error:
        _forget_output()
        print(
            f"numgpt: {_one_line(error)}: expected to read and write here; check the path, the rights and the"
            " space on the disk",
            file=sys.stderr,
        )
        return 2
    except MemoryError as error:
        print(
            f"numgpt: not enough memory ({_one_line(out_of_memory(error))}): choose a smaller model,"
            " --batch-size or --block-size",
            file=sys.stderr,
        )
        return 2
    except TypeError as error:
        if "cupy" not in sys.modules or not any(part in str(error) for part in MIXED):
            raise
        print(
            "numgpt: an array on the GPU was given to what takes arrays of the host, expected a copy:"
            " array.get(), or model.to('reference')",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\nnumgpt: interrupted", file=sys.stderr)
        return 130


def _forget_output():
    """Send what is still buffered nowhere, so that Python does not complain of it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def train(args):
    """numgpt train."""
    from .data import corpus as data
    from .interchange import checkpoint
    from .model.gpt import GPT
    from .storage import atomic
    from .training.progress import Progress
    from .training.trainer import NotFinite, Trainer

    out = Path(args.out) if args.out else _newest_run() if args.resume else _new_run()
    if args.resume and out is not None:
        atomic.settle(out / "last")
    begun = out is not None and checkpoint.is_checkpoint(out / "last")
    if begun and not args.resume:
        raise InputError(
            f"{out}: holds another run, expected a new folder: go on with it by --resume, or choose another"
            " --out"
        )
    if (
        not begun
        and out is not None
        and out.exists()
        and any(
            p.name not in ("best", "log.jsonl", "tokens") and not p.name.startswith(".")
            for p in out.iterdir()
        )
    ):
        raise InputError(f"{out}: is not empty and holds no run, expected a new folder: choose another --out")
    if args.resume and out is None:
        raise InputError("train: there is no run to resume under runs/, expected one: name it by --out")
    given, fields = _fields(args, Training), _fields(args, Config)
    recipe = {
        "paths": args.data,
        "held_out": args.held_out,
        "split": args.split,
        "dedup": args.dedup,
        "special": args.special,
        "folder": args.token_folder,
    }
    recipe = {name: value for name, value in recipe.items() if value is not None}
    if begun:
        model = GPT.load(out / "last")
        state = checkpoint.read_state(out / "last")
        _expect_same(
            out,
            model,
            args,
            fields | ({"seed": given["seed"]} if "seed" in given else {}),
            state["recipe"].get("tokenizer"),
        )
        training = from_dict(Training, state["training"] | given)
        corpus = _prepare({"folder": out / "tokens"} | state["recipe"] | recipe, model)
        corpus.recipe |= {
            name: state["recipe"][name]
            for name in ("tokenizer", "folder")
            if isinstance(state["recipe"].get(name), str)
        }  # for the next --resume
    else:
        training = presets.preset_training(args.preset or presets.DEFAULT, **given)
        corpus = data.prepare(
            tokenizer="chars" if args.tokenizer is None else args.tokenizer,
            **{"folder": out / "tokens"} | recipe,
        )
        V = corpus.tokenizer.vocab_size
        if fields.setdefault("vocab_size", V) != V:
            raise InputError(
                f"train: --vocab-size is {fields['vocab_size']}, expected {V}, what the tokenizer has: leave"
                " it out"
            )
        config = presets.preset(args.preset or presets.DEFAULT, **fields)
        model = GPT(config, training.seed, args.dtype or "float32", corpus.tokenizer)

    if args.token_folder:
        corpus.recipe["folder"] = str(Path(args.token_folder).resolve())
    trainer = Trainer(model, corpus, training, out)
    out.mkdir(parents=True, exist_ok=True)
    if begun:
        trainer.resume()
    _say(
        f"text    {corpus.source}: {len(corpus.train):,} tokens to train on, {len(corpus.held_out):,} held"
        f" out, vocabulary {_vocabulary(corpus)}"
    )
    _say(
        f"model   {model.n_params:,} parameters, {model.params.dtype}, seed {training.seed}; run in {out}"
        + (f", resumed at step {trainer.updates}" if begun else "")
    )
    with Progress(training.steps, trainer.updates) as progress:
        try:
            trainer.run(progress)
        except NotFinite as error:
            progress.close()
            print(f"numgpt: {error}; the run's last checkpoint is {out / 'last'}", file=sys.stderr)
            return 1
    if trainer.stopped and trainer.updates < training.steps:
        _say(
            f"stopped at step {trainer.updates} of {training.steps}, saved; go on with: numgpt train --resume"
            f" --out {out}"
        )
        return 130
    if args.sample_tokens:
        _say(f"\nsample of {args.sample_tokens} tokens at temperature 0.8:")
        _print_texts(
            GPT.load(out),
            _default_prompt(model.tokenizer),
            args.sample_tokens,
            temperature=0.8,
            seed=training.seed,
        )
    _say(f"\nheld-out loss {trainer.held_out:.4f} at the end, {trainer.best:.4f} at best")
    _say(f"checkpoint: {out / 'last'} (and {out / 'best'}); more text with: numgpt sample {out}")
    return 0


def _vocabulary(corpus):
    """Its size, and why it is less than what was asked for."""
    name, V = corpus.recipe.get("tokenizer", ""), corpus.tokenizer.vocab_size
    asked = name.split(":")[1].lstrip("0") if name.startswith("bpe:") else str(V)
    return V if asked == str(V) else f"{V}, fewer than {name} asks for: no other pair comes twice"


def sample(args):
    """numgpt sample."""
    from .model.gpt import GPT

    model = GPT.load(_checkpoint(args))
    prompt = _default_prompt(model.tokenizer) if args.prompt is None else args.prompt
    stop = tuple(s.replace("\\n", "\n").replace("\\t", "\t") for s in args.stop)
    sampling = {
        "temperature": 0.0 if args.greedy else args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "seed": args.seed,
        "slide": args.slide,
    }
    _print_texts(
        model,
        prompt,
        args.max_new_tokens,
        samples=args.num_samples,
        stop=stop,
        show_prompt=args.prompt is not None,
        special=args.special,
        **sampling,
    )
    return 0


def evaluate(args):
    """numgpt eval."""
    from tqdm import tqdm

    from .data import corpus as data
    from .evaluation.score import score
    from .model.gpt import GPT

    folder = Path(_checkpoint(args))
    model = GPT.load(folder)
    if model.tokenizer is None:
        raise InputError("eval: the checkpoint has no tokenizer, expected one to read the text")
    if args.data:
        source, ids = data.encode(args.data, model.tokenizer, args.special)
    else:
        source, ids = _held_out(folder, model)
    with tqdm(total=len(ids) - 1, unit="tok", disable=None, leave=False) as bar:
        result = score(model, ids, args.stride, args.batch_size, bar.update)
    print(f"text           {source}")
    print(f"loss           {result.loss:.4f} nats a token")
    print(f"perplexity     {result.perplexity:.4f}")
    print(f"bits per byte  {result.bits_per_byte:.4f}")
    print(
        f"protocol       {result.tokens:,} tokens ({result.bytes:,} bytes) after the first, context"
        f" {result.block_size}, stride {result.stride}"
    )
    return 0


def _held_out(folder, model):
    """(description, ids) of the part of a run's own text that it was not trained on."""
    from .data import token_files
    from .interchange import checkpoint

    folder = folder.resolve()
    run = next(
        (p for p in (folder / "last", folder.parent / "last", folder) if (p / checkpoint.STATE).is_file()),
        None,
    )
    if run is None:
        raise InputError(f"eval: {folder} is not in a run, expected --data with a text to evaluate on")
    state = checkpoint.read_state(run)
    tokens = (
        run.parent / "tokens"
    )  # where they are, they are read; where they are not, nothing is left in the run's folder
    corpus = _prepare(
        {"folder": tokens if token_files.find(tokens, state["digest"], model.config.vocab_size) else None}
        | state["recipe"],
        model,
    )
    if corpus.digest != state["digest"]:
        raise InputError(
            f"eval: {state['source']} has changed since the run, expected the same text: name one by --data"
        )
    return f"the held-out part of {corpus.source}", corpus.held_out


def _prepare(recipe, model):
    """A run's corpus again, as its state says that it was made."""
    from .data import corpus as data

    try:
        return data.prepare(**recipe | {"tokenizer": model.tokenizer})
    except TypeError as error:
        raise InputError(
            f"the run's recipe {recipe} cannot be followed ({error}), expected state.json as numgpt wrote it"
        ) from error


def convert(args):
    """numgpt convert."""
    from .interchange import huggingface
    from .model.gpt import GPT

    model = GPT.load(args.source)
    if args.dtype:
        model = model.astype(args.dtype)
    model.save(args.destination, args.to)
    print(
        f"{args.destination}: {model.n_params:,} parameters, {model.params.dtype},"
        f" {'as transformers reads them' if args.to == 'hf' else 'a checkpoint of numgpt'}"
    )
    if args.to == "hf" and not (Path(args.destination) / huggingface.TOKENIZER[0]).exists():
        try:
            huggingface.tokenizer_files(model)
        except InputError as error:
            _say(f"numgpt: the tokenizer stays behind ({_one_line(error)})")
    return 0


def export(args):
    """numgpt export."""
    from .interchange import llmc
    from .model.gpt import GPT

    fields = _fields(args, Config)
    if args.model in presets.MODELS:
        model = GPT(presets.preset(args.model, **fields), args.seed)
    elif fields:
        raise InputError(
            f"export: {args.model} has its own {', '.join(fields)}, expected a preset where flags change the"
            " model: leave them out"
        )
    else:
        model = GPT.load(args.model).astype("float32")
    for path in llmc.save_all(
        args.folder, model, args.batch_size, args.tokens or min(64, model.config.block_size), args.seed
    ):
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def info(args):
    """numgpt info."""
    from .model import accounting
    from .model.gpt import GPT

    fields = _fields(args, Config)
    if args.model in presets.MODELS or not Path(args.model).exists():
        config = presets.preset(args.model, **fields)
    else:
        config = dataclasses.replace(GPT.load(args.model).config, **fields)
    T = args.tokens or config.block_size
    if not 1 <= T <= config.block_size:
        raise InputError(f"info: --tokens is {T}, expected 1 to block_size {config.block_size}")
    groups, flops = accounting.parameter_groups(config), accounting.flops_per_token(config, T)
    memory = accounting.training_bytes(config, args.batch_size, T, args.dtype)
    print(f"{args.model}: " + ", ".join(f"{k} {v}" for k, v in vars(config).items()))
    print("\nparameters")
    for name, n in groups.items():
        print(f"  {name:28}{n:20,}")
    print(f"  {'total':28}{sum(groups.values()):20,}")
    print(f"\nbytes of a training step, {args.dtype}, batch {args.batch_size} × {T} tokens")
    for name, n in memory.items():
        print(f"  {name:28}{n:20,}   {_human(n)}")
    print(f"  {'total':28}{sum(memory.values()):20,}   {_human(sum(memory.values()))}")
    print(f"\nFLOPs a token in a sequence of {T}")
    for name, n in flops.items():
        print(f"  {name:28}{n:20,}")
    print(f"  {'forward':28}{sum(flops.values()):20,}")
    print(f"  {'forward and backward':28}{3 * sum(flops.values()):20,}")
    return 0


def _fields(args, settings):
    """The fields of a dataclass that flags gave."""
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(settings) if hasattr(args, f.name)}


def _checkpoint(args):
    newest = args.checkpoint or _newest_run()
    if newest is None:
        raise InputError(
            f"{args.command}: there is no run under runs/, expected a checkpoint: make one with numgpt train,"
            " or name its folder"
        )
    return newest


def _runs():
    """Numbered runs under runs/, by number."""
    return sorted(
        (p for p in Path("runs").glob("*") if p.name.isascii() and p.name.isdigit() and p.is_dir()),
        key=lambda p: int(p.name),
    )


def _new_run():
    return Path("runs") / str(max((int(p.name) for p in _runs()), default=0) + 1)


def _newest_run():
    from .interchange.checkpoint import is_checkpoint

    return next((p for p in reversed(_runs()) if is_checkpoint(p / "last")), None)


def _expect_same(out, model, args, fields, tokenizer):
    """Raise InputError where a flag asks a resumed run for another model. tokenizer: the name that the run
    was begun with.
    """
    from . import tokenizers

    wanted = (
        dict(vars(presets.preset(args.preset))) | {"vocab_size": model.config.vocab_size}
        if args.preset
        else {}
    )
    for name, value in (wanted | fields).items():
        has = model.seed if name == "seed" else getattr(model.config, name)
        if has != value:
            raise InputError(
                f"{out}: the run's model has {name} {has}, expected {value} by the flags: leave them out, or"
                " choose another --out"
            )
    if args.dtype and args.dtype != model.params.dtype.name:
        raise InputError(
            f"{out}: the run's model is {model.params.dtype}, expected {args.dtype} by --dtype: leave it out,"
            " or choose another --out"
        )
    if model.tokenizer is None:
        raise InputError(f"{out}: the run's tokenizer.json is missing, expected a whole checkpoint")
    if args.tokenizer is not None and args.tokenizer != tokenizer:
        tokenizers.expect_named(args.tokenizer, model.tokenizer, f"{out}: the run's")


def _print_texts(model, prompt, max_new_tokens, samples=1, show_prompt=False, **options):
    """Print samples: one as it comes, several when they are done."""
    from .model.generate import texts

    whole = [""] * samples
    for n, parts in enumerate(texts(model, prompt, max_new_tokens, samples=samples, **options)):
        if n == 0 and show_prompt:
            parts = [prompt + part for part in parts]
        if samples == 1:
            print(parts[0], end="", flush=True)
        whole = [a + b for a, b in zip(whole, parts)]
    if samples > 1:
        for n, text in enumerate(whole, 1):
            print(f"--- sample {n} of {samples} ---\n{text}")
    else:
        print()


def _default_prompt(tokenizer):
    """A line break, or where the vocabulary has none the first of its tokens that a text can spell."""
    if tokenizer is None or _encodes(tokenizer, "\n"):
        return "\n"
    ordinary = (
        piece.decode("utf-8", "replace")
        for i, piece in enumerate(tokenizer.pieces)
        if piece and i not in tokenizer.specials.values()
    )
    return next((text for text in ordinary if _encodes(tokenizer, text)), "\n")


def _encodes(tokenizer, text):
    try:
        return len(tokenizer.encode(text)) > 0
    except InputError:
        return False


def _human(n):
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            return f"{n:.4g} {unit}"
        n /= 1024


def _one_line(error):
    return " ".join(str(error).split())


def _say(text):
    print(text, file=sys.stderr, flush=True)


COMMANDS = {
    "train": train,
    "sample": sample,
    "eval": evaluate,
    "check": check,
    "verify": verify,
    "diff": diff,
    "curvature": curvature,
    "tokenizer": tokenizer,
    "convert": convert,
    "export": export,
    "info": info,
}

if __name__ == "__main__":
    sys.exit(main())
