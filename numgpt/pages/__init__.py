"""Pages: enter here to open a Trace, attention or patches as one page on which every number can be seen.

A Trace gets a method explore, and in a notebook displays itself, as soon as this room is imported.
"""

from .exploring import explore
from .inspecting import attention, patching
from .page import Page

__all__ = ["Page", "attention", "explore", "patching"]
