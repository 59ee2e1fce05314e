"""The model in both directions, written on a Record.

Enter here to ask where a backward is, what a name holds, and how a gradient gets home (README.md).
"""
