"""From text to batches: enter here to ask what a run trains on, and what it holds out."""

from .conversations import ALPACA, JOINED, Conversation, Message, Wording, read_conversations
from .permutation import permuted_split
from .preferences import Preference, read_preferences
from .task_tables import Task, read_task

__all__ = [
    "ALPACA",
    "JOINED",
    "Conversation",
    "Message",
    "Preference",
    "Task",
    "Wording",
    "permuted_split",
    "read_conversations",
    "read_preferences",
    "read_task",
]
