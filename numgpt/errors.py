"""The one exception for input that cannot be used: what is, what was expected, what to do."""


class InputError(ValueError):
    """Something that the user gave cannot be used; the command line prints it as one line and exits with 2."""
