"""How good a model is on a text: enter here to ask what loss, perplexity and bits per byte mean."""
