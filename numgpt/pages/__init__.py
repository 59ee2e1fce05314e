"""The gradient explorer: enter here to open a Trace as one page on which every number can be looked into.

A Trace gets a method explore, and in a notebook displays itself, as soon as this room is imported.
"""

from .exploring import explore
from .page import Page

__all__ = ["Page", "explore"]
