"""Pruning: which weights, neurons and heads a model can do without, masks of weights, and smaller models."""
