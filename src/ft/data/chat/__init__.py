"""Conversations, rendered by a chat template and trained turn by turn (`type: chat_template`).

    record --messages--> turns, tools --templates--> text --spans--> where each turn stands
           --labels--> which tokens are trained

The conversation is rendered once and tokenized at once. Where a turn's content stands is found by
rendering again with that content replaced, and comparing: no template has to be understood. Role
headers are never trained; the end token behind a trained turn is.
"""

from ft.data.chat.ends import EndOfTurn
from ft.data.chat.layout import CHAT_TYPE, PROMPT_FIELD, ChatLayout, chat_layout
from ft.data.chat.templates import Template, template_text

__all__ = [
    "CHAT_TYPE",
    "PROMPT_FIELD",
    "ChatLayout",
    "EndOfTurn",
    "Template",
    "chat_layout",
    "template_text",
]
