"""Derivatives beyond the gradient, exact: enter here to ask how a loss bends and how examples differ.

θ is a model's parameters, z its logits, L the mean surprise at the N targets that count, in nats. What is
linear in a direction v comes from the complex step: for a function that accepts complex numbers,
Im f(θ + ihv)/h is the derivative along v to rounding, because nothing is subtracted (Squire and Trapp 1998).
Both the forward and the hand-written backward accept them.

Everything is computed at the parameters widened to float64 or complex128, which is exact for a float32
model, and returned as float64. Dropout never acts.

A vector in parameter space is a mapping name -> array, as model.params and its gradients are, or a flat array
of model.n_params numbers in the order of model.params.flat. It lies in the host's memory, as all results do,
wherever the model lies and computes. What has θ's shape is returned as such a mapping, whose arrays are views
of one buffer, .flat.
"""

from .diagonal import fisher_diagonal
from .eigenvalues import OPERATORS, top_eigenvalues
from .examples import (
    NoiseScale,
    empirical_fisher,
    gradient_noise_scale,
    gradient_norms,
    noise_scale,
    per_example_gradients,
)
from .products import fisher, gauss_newton, hessian, hvp, jvp, softmax_curvature, vjp

__all__ = [
    "OPERATORS",
    "NoiseScale",
    "empirical_fisher",
    "fisher",
    "fisher_diagonal",
    "gauss_newton",
    "gradient_noise_scale",
    "gradient_norms",
    "hessian",
    "hvp",
    "jvp",
    "noise_scale",
    "per_example_gradients",
    "softmax_curvature",
    "top_eigenvalues",
    "vjp",
]
