"""The GPT as one object: enter here to ask what can be done with a model, how it writes, and what it costs."""
