"""Models in files, numgpt's and those of others: enter here to ask how one is saved, and what can be read."""
