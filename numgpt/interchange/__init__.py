"""Models in the files and random numbers of others: enter here to ask how a model is saved, and how theirs is
read.
"""
