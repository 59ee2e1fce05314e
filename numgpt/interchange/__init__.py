"""Models and random numbers to and from files of other programs: enter here to ask how a model is saved or read."""
