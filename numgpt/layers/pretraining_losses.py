"""What pre-training may minimise besides the surprise: targets that are smoothed, logits that stay small."""

from ..ops import add, cross_entropy, router_z, scaled, token_logprobs, token_mean
from .layer import Layer
from .transformer import gpt_backward, gpt_forward, loss


def surprise(smoothing=0.0, z_weight=0.0):
    """The layer of the mean surprise at the targets, with two terms against a model that is too sure.

        loss = mean_n −Σ_v q_nv ln p_nv + w mean_n lse_n²        q = (1 − ε) [v = target] + ε / V
                                                                 lse = ln Σ_v exp(logits_v)

    smoothing: ε, the share of each target that all tokens get alike. z_weight: w, which pulls the sum of the
    exponentials to 1; its mean is over all tokens of the batch.
    Sources: Szegedy et al. 2016 (smoothing); Chowdhery et al. 2022 (lse², with w = 1e-4).
    """
    if not (smoothing or z_weight):
        return loss

    def forward(r, tokens, targets, count=None):
        """tokens and targets (..., T) → ()"""
        logits = gpt_forward(r, tokens)
        if smoothing:
            logp = r("logp", token_logprobs, logits, targets, smoothing=smoothing)
            counted = (targets >= 0).astype(logp.dtype)
            surprise = r("loss", scaled, r("mean", token_mean, logp, counted, count=count), factor=-1.0)
        else:
            surprise = r("loss", cross_entropy, logits, targets, count=count)
        if not z_weight:
            return surprise
        small = r("z_part", scaled, r("z", router_z, logits), factor=z_weight)
        return r("total", add, surprise, small)

    def backward(r, dloss):
        """Gradients of forward: the logits get one from each term."""
        dsurprise = dsmall = dloss
        if z_weight:
            dsurprise, dsmall = r.back("total", dloss)
        if smoothing:
            dlogits = r.back("logp", r.back("mean", r.back("loss", dsurprise)))
        else:
            dlogits = r.back("loss", dsurprise)
        if z_weight:
            dlogits = dlogits + r.back("z", r.back("z_part", dsmall))
        gpt_backward(r, dlogits)

    return Layer(forward, backward)
