"""The model written out in both directions on a Record: enter here to ask where a backward is, and what a
name holds.
"""
