"""Losses of tuning on top of the GPT: of responses, a teacher's predictions, preferences and verdicts."""

import numpy as np

from ..ops import add, dpo, forward_kl, ipo, kto, scaled, sequence_sum, token_logprobs, token_mean
from .layer import Layer
from .transformer import gpt_backward, gpt_forward

# Weights are 1 where a target counts, or a share of it, and 0 elsewhere. count: what a sum is divided by.


def responses(smoothing=0.0):
    """The layer of supervised fine-tuning: the mean surprise at the tokens of responses.

    smoothing: ε, the share of each target that all tokens get alike.
    """

    def forward(r, tokens, targets, weights, count=None):
        """−Σ w ln p(target) / count.  tokens, targets and weights (..., T) → ()"""
        logp = r("logp", token_logprobs, gpt_forward(r, tokens), targets, smoothing=smoothing)
        mean = r("mean", token_mean, logp, weights, count=count)
        return r("loss", scaled, mean, factor=-1.0)

    def backward(r, dloss):
        """Gradients of forward."""
        gpt_backward(r, r.back("logp", r.back("mean", r.back("loss", dloss))))

    return Layer(forward, backward)


def log_likelihoods_forward(r, tokens, targets, weights):
    """The log-probability of each row's response, Σ_t w ln p(target).  (..., T) → (...)"""
    logp = r("logp", token_logprobs, gpt_forward(r, tokens), targets)
    return r("sums", sequence_sum, logp, weights)


def log_likelihoods_backward(r, dy):
    """Gradients of log_likelihoods_forward."""
    gpt_backward(r, r.back("logp", r.back("sums", dy)))


log_likelihoods = Layer(log_likelihoods_forward, log_likelihoods_backward)


def preferences(loss, chosen_nll=0.0, **options):
    """The layer of a loss of pairs, such as DPO's: the mean over pairs.

    loss: an op of (chosen, rejected, and the two under the fixed model), with its options.
    chosen_nll: the weight of the chosen responses' mean surprise, which keeps them likely.
    """

    def forward(r, tokens, targets, weights, fixed):
        """tokens, targets and weights (B, 2, T), chosen and rejected; fixed (B, 2) → ()"""
        logp = r("logp", token_logprobs, gpt_forward(r, tokens), targets)
        sums = r("sums", sequence_sum, logp, weights)
        each = r("pairs", loss, sums[:, 0], sums[:, 1], fixed[:, 0], fixed[:, 1], **options)
        mean = r("mean", token_mean, each, np.ones_like(each))
        if not chosen_nll:
            return mean
        of_chosen = weights * np.array([[1.0], [0.0]], weights.dtype, like=weights)
        surprise = r("chosen", token_mean, logp, of_chosen)
        return r("loss", add, mean, r("nll", scaled, surprise, factor=-chosen_nll))

    def backward(r, dloss):
        """Gradients of forward: of a pair's two sums side by side, and of the chosen ones' surprise."""
        dlogp = 0.0
        if chosen_nll:
            dloss, dnll = r.back("loss", dloss)
            dlogp = r.back("chosen", r.back("nll", dnll))
        dsums = np.stack(r.back("pairs", r.back("mean", dloss)), axis=-1)
        gpt_backward(r, r.back("logp", r.back("sums", dsums) + dlogp))

    return Layer(forward, backward)


PAIRS = {"dpo": dpo, "ipo": ipo}


def verdicts(beta):
    """The layer of KTO's loss: the mean over single responses, good ones and bad ones.

    shares: what each response's loss is multiplied by. z0: what responses gain on average, in units of beta,
    a constant.
    """

    def forward(r, tokens, targets, weights, fixed, desirable, shares, z0):
        """tokens, targets and weights (B, T); fixed, desirable and shares (B); z0 () → ()"""
        sums = log_likelihoods_forward(r, tokens, targets, weights)
        each = r("each", kto, sums, fixed, desirable, z0, beta=beta)
        return r("mean", token_mean, each, shares, count=float(len(tokens)))

    def backward(r, dloss):
        """Gradients of forward."""
        log_likelihoods_backward(r, r.back("each", r.back("mean", dloss)))

    return Layer(forward, backward)


def distilled(temperature, share):
    """The layer of distillation: the teacher's predictions at a temperature, and the text itself.

        loss = share τ² KL(q_τ‖p_τ) + (1 − share) (−ln p(target))        means over what counts

    τ² keeps the gradient's size when τ changes (Hinton, Vinyals and Dean 2015).
    """

    def forward(r, tokens, targets, taught, weights, count=None):
        """taught (..., T, V): the teacher's logits. tokens, targets and weights (..., T) → ()"""
        logits = gpt_forward(r, tokens)
        apart = r("apart", forward_kl, logits, taught, temperature=temperature)
        apart = r("kl", token_mean, apart, weights, count=count)
        apart = r("kl_part", scaled, apart, factor=share * temperature**2)
        logp = r("logp", token_logprobs, logits, targets)
        mean = r("mean", token_mean, logp, weights, count=count)
        return r("loss", add, apart, r("text_part", scaled, mean, factor=share - 1.0))

    def backward(r, dloss):
        """Gradients of forward."""
        dapart, dtext = r.back("loss", dloss)
        dlogits = r.back("apart", r.back("kl", r.back("kl_part", dapart)))
        # Last, for its gradient may be written over the logits, which both read.
        dlogits = dlogits + r.back("logp", r.back("mean", r.back("text_part", dtext)))
        gpt_backward(r, dlogits)

    return Layer(forward, backward)
