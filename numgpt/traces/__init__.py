"""What one run computed, by name: enter here to ask what a Trace holds, and how another program writes one.

README.md has the schema of the file.
"""

from .steps import Difference, OpText, Reference, Step
from .trace import Trace

__all__ = ["Difference", "OpText", "Reference", "Step", "Trace"]
