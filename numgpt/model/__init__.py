"""The GPT as one object: enter here to ask what a model can do, how it writes, and what it costs."""
