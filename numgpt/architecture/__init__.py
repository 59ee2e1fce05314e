"""What a model is, as data: enter here to ask which settings there are and what parameters are called."""
