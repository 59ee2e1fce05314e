"""What numgpt itself is held to: enter here to ask which subjects are checked, and how many planted faults
are caught.
"""
