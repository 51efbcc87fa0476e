"""axolotl.prompt_tokenizers: base classes of users' strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ft.data.segments import IGNORE_INDEX, Segment, Separate
from ft.data.tokenize import tokenize_separately

Columns = dict[str, list[int]]


class InvalidDataError(Exception):
    """A record that the strategy refuses; axolotl calls it InvalidDataException."""


class DatasetWrappingStrategy:
    """Base of strategies that lay out a whole data set: `wrap_dataset(dataset)`."""


class PromptTokenizingStrategy:
    """A strategy of a user's file that makes its own tokens, with `self._tokenize`."""

    filter_rows: Callable[[Any], Any] | None = None
    """Says whether a record is used; None = all are."""

    def __init__(
        self,
        prompter: Any,
        tokenizer: Any,
        train_on_inputs: bool = False,
        sequence_len: int = 2048,
    ) -> None:
        self.prompter = prompter
        self.tokenizer = tokenizer
        self.train_on_inputs = bool(train_on_inputs)
        self.sequence_len = sequence_len
        self.max_length = sequence_len

    @property
    def supports_batched(self) -> bool:
        """Whether `tokenize_prompt` takes columns instead of one record."""
        return False

    def _tokenize(
        self, prompt: str, add_eos_token: bool = True, strip_bos_token: bool = False
    ) -> Any:
        """Ids, attention mask and labels of one text that is trained throughout."""
        segment = Segment(prompt or "", is_trained=True, ends_turn=add_eos_token)
        # Only a segment that follows another one loses its BOS; an empty one has no tokens.
        lead = (Segment(""),) if strip_bos_token else ()
        row = tokenize_separately([Separate((*lead, segment), self.max_length)], self.tokenizer)[0]
        return _as_encoding(row.input_ids, row.labels)


class PairStrategy(PromptTokenizingStrategy):
    """A strategy whose records are a prompt and a response; where ours begin to differ is below."""

    def prompt_and_response(self, prompt: Any) -> tuple[str, str]:
        """The two texts of a record."""
        raise TypeError(f"{type(self).__name__} lacks prompt_and_response")

    def segments(self, prompt: Any) -> Separate:
        """The prompt, then the response."""
        text, response = self.prompt_and_response(prompt)
        if self.train_on_inputs:  # then a record without a response has something to teach, too
            response = response or ""
        return Separate(
            (Segment(text, self.train_on_inputs), Segment(response, True, ends_turn=True)),
            self.max_length,
        )

    def tokenize_prompt(self, prompt: Any) -> Any:
        """Ids, attention mask and labels of a record, by way of `_tokenize`."""
        text, response = self.prompt_and_response(prompt)
        asked = self._tokenize(text, add_eos_token=False)
        said = self._tokenize(response, strip_bos_token=True, add_eos_token=True)
        asked_ids = list(asked["input_ids"])
        labels = asked_ids if self.train_on_inputs else [IGNORE_INDEX] * len(asked_ids)
        return _as_encoding(
            [*asked_ids, *said["input_ids"]],
            [*labels, *said["input_ids"]],
            [*asked["attention_mask"], *said["attention_mask"]],
        )

    @classmethod
    def renders_segments(cls) -> bool:
        """Whether a subclass left tokenization to us, so that it may happen in batches."""
        is_ours = cls.tokenize_prompt is PairStrategy.tokenize_prompt
        return is_ours and cls._tokenize is PromptTokenizingStrategy._tokenize


class InstructionPromptTokenizingStrategy(PairStrategy):
    """A strategy whose records are an instruction, an input and a response."""

    def parse_instruction_fields(self, prompt: Any) -> Any:
        """Instruction, input and response of a record; every subclass has its own."""
        raise TypeError(f"{type(self).__name__} lacks parse_instruction_fields")

    def prompt_and_response(self, prompt: Any) -> tuple[str, str]:
        """What the prompter builds, and the response."""
        instruction, input_text, response = self.parse_instruction_fields(prompt)
        return next(iter(self.prompter.build_prompt(instruction, input_text))), response

    def _build_full_prompt(self, instruction: str, input: str | None, response: str | None) -> str:
        return str(next(iter(self.prompter.build_prompt(instruction, input, response))))


class InstructionWSystemPromptTokenizingStrategy(PairStrategy):
    """A strategy whose records have a system text, too."""

    def parse_instruction_fields(self, prompt: Any) -> Any:
        """Instruction, input, response and system text of a record."""
        return prompt["instruction"], prompt.get("input", ""), prompt["output"], prompt["system"]

    def prompt_and_response(self, prompt: Any) -> tuple[str, str]:
        """What the prompter builds, and the response."""
        instruction, input_text, response, system = self.parse_instruction_fields(prompt)
        built = self.prompter.build_prompt_w_system(system, instruction, input_text)
        return next(iter(built)), response


class OpenOrcaPromptTokenizingStrategy(InstructionWSystemPromptTokenizingStrategy):
    """question, response, system_prompt."""

    def parse_instruction_fields(self, prompt: Any) -> Any:
        """The fields of OpenOrca."""
        return prompt["question"], "", prompt["response"], prompt["system_prompt"]


class FieldsStrategy(InstructionPromptTokenizingStrategy):
    """Instruction, input, response from fields of the names that the subclass gives."""

    names: ClassVar[tuple[str, str, str]]

    def parse_instruction_fields(self, prompt: Any) -> tuple[str, str, str]:
        """The three fields; only the input may be missing."""
        instruction, input_name, response = self.names
        return prompt[instruction], prompt.get(input_name) or "", prompt[response]


class AlpacaPromptTokenizingStrategy(FieldsStrategy):
    """instruction, input, output."""

    names = ("instruction", "input", "output")


class GPTeacherPromptTokenizingStrategy(FieldsStrategy):
    """instruction, input, response."""

    names = ("instruction", "input", "response")


class OpenAssistantPromptTokenizingStrategy(FieldsStrategy):
    """INSTRUCTION, RESPONSE."""

    names = ("INSTRUCTION", "", "RESPONSE")


class NomicGPT4AllPromptTokenizingStrategy(FieldsStrategy):
    """prompt, response."""

    names = ("prompt", "", "response")


class SummarizeTLDRPromptTokenizingStrategy(FieldsStrategy):
    """article, summary."""

    names = ("article", "", "summary")


class JeopardyPromptTokenizingStrategy(FieldsStrategy):
    """question, category, answer."""

    names = ("question", "category", "answer")

    def parse_instruction_fields(self, prompt: Any) -> tuple[str, str, str]:
        """The answer is given as a question."""
        question, category, answer = super().parse_instruction_fields(prompt)
        return question, category, "what is " + answer


class AlpacaMultipleChoicePromptTokenizingStrategy(InstructionPromptTokenizingStrategy):
    """question, choices, solution or explanation."""

    def parse_instruction_fields(self, prompt: Any) -> tuple[str, str, str]:
        """The choices are a list, one a line."""
        choices = "\n".join(f'- "{choice}"' for choice in prompt["choices"])
        name = "solution" if "solution" in prompt else "explanation"
        return prompt["question"], choices, prompt[name]


def tokenize_prompt_default() -> tuple[Columns, int]:
    """An empty row to append to, and its length."""
    return {"input_ids": [], "attention_mask": [], "labels": []}, 0


def parse_tokenized_to_result(
    result: Columns,
    current_len: int,
    res: Mapping[str, list[int]],
    labels: list[int],
    pad_token_id: int | None = None,
) -> tuple[Columns, int]:
    """Appends a tokenized piece with its labels to a row; gives the row and its new length."""
    ids = list(res["input_ids"])
    result["input_ids"] += ids
    result["attention_mask"] += [int(token != pad_token_id) for token in ids]
    result["labels"] += list(labels)
    return result, current_len + len(ids)


def _as_encoding(
    input_ids: list[int], labels: list[int], attention_mask: list[int] | None = None
) -> Any:
    from transformers import BatchEncoding  # only code that has a tokenizer comes here

    mask = [1] * len(input_ids) if attention_mask is None else attention_mask
    return BatchEncoding({"input_ids": input_ids, "attention_mask": mask, "labels": labels})


NAMES: dict[str, Any] = {
    "IGNORE_INDEX": IGNORE_INDEX,
    "InvalidDataException": InvalidDataError,
    "LLAMA_DEFAULT_BOS_TOKEN": "<s>",
    "LLAMA_DEFAULT_EOS_TOKEN": "</s>",
    "LLAMA_DEFAULT_PAD_TOKEN": "<pad>",
    "LLAMA_DEFAULT_UNK_TOKEN": "<unk>",
    "parse_tokenized_to_result": parse_tokenized_to_result,
    "tokenize_prompt_default": tokenize_prompt_default,
    **{
        each.__name__: each
        for each in (
            AlpacaMultipleChoicePromptTokenizingStrategy,
            AlpacaPromptTokenizingStrategy,
            DatasetWrappingStrategy,
            GPTeacherPromptTokenizingStrategy,
            InstructionPromptTokenizingStrategy,
            JeopardyPromptTokenizingStrategy,
            NomicGPT4AllPromptTokenizingStrategy,
            OpenAssistantPromptTokenizingStrategy,
            PromptTokenizingStrategy,
            SummarizeTLDRPromptTokenizingStrategy,
        )
    },
}
"""What `axolotl.prompt_tokenizers` holds."""
