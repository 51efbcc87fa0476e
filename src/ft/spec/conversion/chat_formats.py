"""Chat formats that other tools hold under names of their own, as layouts of ours.

Two kinds of record reach us: an instruction with its answer becomes a `type:` mapping, a list of
messages a Jinja template. Both come from the same few strings, so that they agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ft.spec.runspec import MappingLayout

CONTENT, EOS = "{content}", "{eos}"
_QUESTION, _QUESTION_AND_INPUT = "{instruction}", "{instruction}\n{input}"


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written."""

    user: str = CONTENT
    """A question and all up to the answer; `{eos}` stands for the tokenizer's end token."""
    system: str = CONTENT
    end: str = ""
    """Token behind an answer; empty: the tokenizer's end token."""
    after: str = ""
    """Text between an answer's end token and the next turn."""
    before_answer: str = ""
    default_system: str = ""
    is_system_in_user: bool = False
    """The system text stands inside the first question."""
    has_bos: bool = False
    """A conversation begins with the tokenizer's first token."""
    caveat: str = ""
    """What is different here all the same."""

    def mapping(
        self, instruction: str, answer: str, input: str | None, system: str | None
    ) -> dict[str, Any] | None:
        """The format as `type:` for records of single fields; None where a mapping can't say it.

        Args:
            instruction: Field of the question.
            answer: Field of the answer.
            input: Field of what goes with the question, if there is one.
            system: Field of the system text, if there is one.
        """
        if EOS in self.user + self.system or (self.is_system_in_user and system):
            return None
        user = self.user
        if self.is_system_in_user and self.default_system:
            user = user.replace(
                CONTENT, self.system.replace(CONTENT, self.default_system) + CONTENT
            )
        layout = {
            "field_instruction": instruction,
            "field_input": input or MappingLayout.model_fields["field_input"].default,
            "field_output": answer,
            "field_system": system or MappingLayout.model_fields["field_system"].default,
            "system_prompt": "" if self.is_system_in_user else self.default_system,
            "system_format": self.system.replace(CONTENT, "{system}"),
        }
        if not (system or layout["system_prompt"]):
            del layout["system_format"]
        fields = MappingLayout.model_fields
        layout = {key: value for key, value in layout.items() if value != fields[key].default}
        with_input = _QUESTION_AND_INPUT if input else _QUESTION
        layout["format"] = user.replace(CONTENT, with_input)
        layout["no_input_format"] = user.replace(CONTENT, _QUESTION)
        return layout

    def jinja(self) -> str:
        """The format as a chat template."""
        user = _spoken(self.user, "turn['content']")
        answer = _spoken(
            f"{self.before_answer}{CONTENT}{self.end or EOS}{self.after}", "turn['content']"
        )
        lines = ["{{- bos_token }}"] if self.has_bos else []
        lines += [
            "{%- if messages[0]['role'] == 'system' %}",
            "{%- set system = messages[0]['content'] %}{% set turns = messages[1:] %}",
            "{%- else %}",
            f"{{%- set system = {_literal(self.default_system)} %}}{{% set turns = messages %}}",
            "{%- endif %}",
        ]
        if not self.is_system_in_user:
            lines.append(
                f"{{%- if system %}}{{{{- {_spoken(self.system, 'system')} }}}}{{%- endif %}}"
            )
        lines += ["{%- for turn in turns %}", "{%- if turn['role'] == 'assistant' %}"]
        lines.append(f"{{{{- {answer} }}}}")
        if self.is_system_in_user:
            inside = f"({_spoken(self.system, 'system')} + turn['content'])"
            lines.append("{%- elif loop.first and system %}")
            lines.append(f"{{{{- {_spoken(self.user, inside)} }}}}")
        lines += ["{%- else %}", f"{{{{- {user} }}}}", "{%- endif %}", "{%- endfor %}"]
        return "\n".join(lines)


def _spoken(text: str, content: str) -> str:
    """A text with slots as a Jinja expression."""
    parts = []
    for i, around_eos in enumerate(text.split(EOS)):
        parts += ["eos_token"] if i else []
        for j, piece in enumerate(around_eos.split(CONTENT)):
            parts += [content] if j else []
            parts += [_literal(piece)] if piece else []
    return " + ".join(parts)


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


_CHATML = ChatFormat(
    "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\n{content}<|im_end|>\n",
    end="<|im_end|>",
    after="\n",
)
_GEMMA = ChatFormat(
    "<start_of_turn>user\n{content}<end_of_turn>\n<start_of_turn>model\n",
    "{content}\n\n",
    end="<end_of_turn>",
    after="\n",
    is_system_in_user=True,
    has_bos=True,
)
_LLAMA2 = ChatFormat(
    "[INST] {content} [/INST]",
    "<<SYS>>\n{content}\n<</SYS>>\n\n",
    is_system_in_user=True,
    has_bos=True,
)
_LLAMA3 = ChatFormat(
    "<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|start_header_id|>system<|end_header_id|>\n\n{content}<|eot_id|>",
    end="<|eot_id|>",
    has_bos=True,
)
_MISTRAL = ChatFormat(
    "[INST] {content}[/INST]",
    "{content}\n\n",
    before_answer=" ",
    is_system_in_user=True,
    has_bos=True,
)
_PHI = ChatFormat(
    "<|user|>\n{content}<|end|>\n<|assistant|>\n",
    "<|system|>\n{content}<|end|>\n",
    end="<|end|>",
    after="\n",
)
_THINKS = (
    "there, an answer without <think> gets an empty one in front, which is trained; "
    "here answers stand as they are"
)
_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

CHAT_FORMATS: Mapping[str, ChatFormat] = {
    "alpaca": ChatFormat(
        "### Instruction:\n{content}\n\n### Response:\n", after="\n\n",
        default_system=_ALPACA_SYSTEM,
    ),
    "belle": ChatFormat("Human: {content}\n\nBelle: ", after="\n\n", has_bos=True),
    "chatml": _CHATML,
    "cohere": ChatFormat(
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{content}<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{content}<|END_OF_TURN_TOKEN|>",
        has_bos=True,
    ),
    "cpm3": replace(_CHATML, has_bos=True),
    "cpm4": replace(_CHATML, has_bos=True),
    "deepseek": ChatFormat("User: {content}\n\nAssistant:", "{content}\n\n", has_bos=True),
    "deepseek3": ChatFormat("<｜User｜>{content}<｜Assistant｜>", has_bos=True),  # noqa: RUF001
    "deepseekr1": ChatFormat("<｜User｜>{content}<｜Assistant｜>", has_bos=True, caveat=_THINKS),  # noqa: RUF001
    "default": ChatFormat(
        "Human: {content}{eos}\nAssistant:", "System: {content}{eos}\n", after="\n"
    ),
    "exaone": ChatFormat(
        "[|user|]{content}\n[|assistant|]", "[|system|]{content}[|endofturn|]\n", after="\n"
    ),
    "falcon_h1": replace(_CHATML, has_bos=True),
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "granite3": ChatFormat(
        "<|start_of_role|>user<|end_of_role|>{content}<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|start_of_role|>system<|end_of_role|>{content}<|end_of_text|>\n",
        end="<|end_of_text|>", after="\n",
    ),
    "llama2": _LLAMA2,
    "llama2_zh": replace(
        _LLAMA2, default_system="You are a helpful assistant. 你是一个乐于助人的助手。"
    ),
    "llama3": _LLAMA3,
    "llama4": ChatFormat(
        "<|header_start|>user<|header_end|>\n\n{content}<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n",
        "<|header_start|>system<|header_end|>\n\n{content}<|eot|>",
        end="<|eot|>", has_bos=True,
    ),
    "ministral": replace(_MISTRAL, user="[INST]{content}[/INST]", before_answer=""),
    "mistral": _MISTRAL,
    "opencoder": replace(
        _CHATML, default_system="You are OpenCoder, created by OpenCoder Team."
    ),
    "phi": _PHI,
    "phi4": ChatFormat(
        "<|im_start|>user<|im_sep|>{content}<|im_end|><|im_start|>assistant<|im_sep|>",
        "<|im_start|>system<|im_sep|>{content}<|im_end|>",
        end="<|im_end|>",
    ),
    "qwen": replace(
        _CHATML,
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    "qwen3": replace(_CHATML, caveat=_THINKS),
    "qwen3_nothink": _CHATML,
    "smollm": _CHATML,
    "smollm2": replace(
        _CHATML,
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
    ),
    "solar": ChatFormat("### User:\n{content}\n\n### Assistant:\n", "### System:\n{content}\n\n"),
    "vicuna": ChatFormat("USER: {content} ASSISTANT:", default_system=_VICUNA_SYSTEM),
    "xverse": ChatFormat("Human: {content}\n\nAssistant: "),
    "yi": _CHATML,
    "zephyr": ChatFormat(
        "<|user|>\n{content}{eos}<|assistant|>\n", "<|system|>\n{content}{eos}",
        default_system="You are Zephyr, a helpful assistant.",
    ),
}  # fmt: skip
"""LLaMA-Factory's names for them. Not here: those that number turns, or show images."""
