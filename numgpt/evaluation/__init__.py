"""How good a model is on a text: enter here to ask what a loss, a perplexity and bits per byte mean."""
