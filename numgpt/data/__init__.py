"""From text to batches: enter here to ask what a run trains on, and what it holds out."""

from .chat_templates import BARE, CHATML, LLAMA, PLAIN, ChatTemplate
from .conversations import ALPACA, JOINED, Conversation, Message, Wording, read_conversations
from .jinja_templates import JinjaTemplate, from_tokenizer_config
from .packing import RowBatch, Rows, packed, padded, stacked
from .permutation import permuted_split
from .preferences import Preference, read_preferences
from .prompts import Prompt, read_prompts
from .rendering import End, Example
from .task_tables import Task, read_task
from .templates import chat_template, template_from_state
from .verdicts import Verdict, read_verdicts

__all__ = [
    "ALPACA",
    "BARE",
    "CHATML",
    "JOINED",
    "LLAMA",
    "PLAIN",
    "ChatTemplate",
    "Conversation",
    "End",
    "Example",
    "JinjaTemplate",
    "Message",
    "Preference",
    "Prompt",
    "RowBatch",
    "Rows",
    "Task",
    "Verdict",
    "Wording",
    "chat_template",
    "from_tokenizer_config",
    "packed",
    "padded",
    "permuted_split",
    "read_conversations",
    "read_preferences",
    "read_prompts",
    "read_task",
    "read_verdicts",
    "stacked",
    "template_from_state",
]
