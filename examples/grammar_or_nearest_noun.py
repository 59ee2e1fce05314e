"""Does a small model know which noun a verb agrees with, or does it follow the nearest one?

"The friend near the windows is old" differs from "… are old" in one word, and a model that finds the first
likelier has taken the right noun. The same 200 subjects and verbs are asked in three ways: alone, with a noun
of the same number between subject and verb, and with one of the other number. Whoever knows the subject is
right in all three, whoever counts neighbours is right in the first two and wrong in the third. Each share has
its standard error; differences are taken sentence by sentence, so that what two ways or two models have in
common is in their error too.

What it does not show: sentences of one form were drawn from some dozens of words, so the errors are those of
other draws of these words, not of other constructions. A likelihood is no grammar: "were" may be rare here
for other reasons, which is why singular and plural subjects come equally often. Nothing is said of larger
models.

    python grammar_or_nearest_noun.py --plot picture.svg    a few seconds
"""

import numpy as np
import picture

import numgpt
from numgpt.evaluation import Question, Suite, difference, estimate, evaluate
from numgpt.evaluation.suites import ADJECTIVES, PLACES, PLURAL, SINGULAR

WAYS = ("alone", "same number", "other number")
N = 200
MODELS = ("numgpt:austen", "numgpt:tiny")


def sentences(rng):
    """Three questions about one subject and one verb."""
    is_plural = int(rng.integers(2))
    nouns = (SINGULAR, PLURAL)
    subject, same = rng.choice(nouns[is_plural], 2, replace=False)
    other = rng.choice(nouns[1 - is_plural])
    place, adjective = rng.choice(PLACES), rng.choice(ADJECTIVES)
    verbs = (("is", "are"), ("was", "were"))[int(rng.integers(2))]
    between = ("", f" {place} the {same}", f" {place} the {other}")
    for way, middle in zip(WAYS, between):
        choices = [f"The {subject}{middle} {verb} {adjective}." for verb in verbs]
        yield Question(choices=choices, gold=is_plural, group=way)


def asked():
    """N times three questions, those of one subject behind each other."""
    rng = np.random.default_rng(0)
    return Suite("agreement", [q for _ in range(N) for q in sentences(rng)], delimiter="")


def main():
    """Ask both models that ship with numgpt, print and draw the shares, and compare."""
    show = picture.script(__doc__)
    suite = asked()
    results = {name: evaluate(numgpt.GPT.load(name), suite) for name in MODELS}
    print(f"{len(suite.questions)} sentences, SHA-256 {suite.digest[:16]}; right are, of")
    print(f"{'':15}{''.join(f'{way:>18}' for way in WAYS)}")
    for name, result in results.items():
        print(f"{name:15}{''.join(f'{result.estimate(group=way)!s:>18}' for way in WAYS)}")
    right = results["numgpt:austen"].measures["acc"].scores.reshape(N, len(WAYS))
    alone, same, other = right.T
    lost = {
        "a noun of the same number": difference(same, alone),
        "one of the other": difference(other, alone),
    }
    for what, found in lost.items():
        print(f"numgpt:austen, with {what}: {found.value:+.4f} ± {found.error:.4f}, sentence by sentence")
    show(lambda figure: numgpt.plots.scores(results, figure.subplots()))

    knows, follows = (estimate(share) for share in (alone, other))
    assert knows.value - 0.5 > 5 * knows.error  # far better than by chance
    assert 0.5 - follows.value > 5 * follows.error  # far worse
    assert lost["one of the other"].value < -0.5
    assert lost["a noun of the same number"].value > -0.15
    lead = results["numgpt:austen"].difference(results["numgpt:tiny"], group="alone")
    print(f"alone, numgpt:austen leads numgpt:tiny by {lead}, sentence by sentence")
    assert lead.value > 3 * lead.error
    print("The model has learned that a verb agrees with a noun, and takes the nearest one.")


if __name__ == "__main__":
    main()
