"""Asking a tuned model: the layout that it was trained with, the end that it was trained with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from typing import Any

from ft.evaluate.asked import AskedModel
from ft.evaluate.generate import OnToken, Sampling, generate
from ft.evaluate.trained import TrainedRun
from ft.model import LoadedModel
from ft.runtime import Problem, UserError


@dataclass(frozen=True)
class Answerer(AskedModel):
    """A loaded model that knows how it wants to be asked, and answers in words."""

    @property
    def tokenizer(self) -> Any:
        """The run's tokenizer."""
        return self.loaded.tokenizer.tokenizer

    @property
    def takes_messages(self) -> bool:
        """Whether the layout remembers turns."""
        layout_type = self.layout.spec.type
        return isinstance(layout_type, str) and layout_type.startswith("chat_template")

    @property
    def stop_token_ids(self) -> list[int]:
        """The end tokens that were trained."""
        named = [self.tokenizer.convert_tokens_to_ids(token) for token in self.layout.eot_tokens]
        return [self.tokenizer.eos_token_id, *named]

    def require_known(self, names: Iterable[str]) -> None:
        """A field that nothing reads is a mistake; what a user's own code reads is not known.

        Raises:
            UserError: names the field, and those that there are.
        """
        fields = self.layout.fields
        known = {*fields.prompt, *fields.response, *fields.optional, fields.default}
        for name in names:
            if self.layout.source is None and name not in known:
                readable = ", ".join(sorted(each for each in known if each))
                raise UserError(
                    Problem(f"the layout has no field {name!r}", fix=f"it has {readable}")
                )

    def raw_prompt(self, text: str) -> list[int]:
        """Token ids of a text as it stands."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def answer(self, prompt: list[int], sampling: Sampling, *, strips_prefix: bool = True) -> str:
        """The model's answer, without special tokens and without the layout's response prefix."""
        text = self._decode(self._generate([prompt], sampling, None)[0])
        return self._shown(text) if strips_prefix else text

    def answers(self, prompts: list[list[int]], sampling: Sampling) -> list[str]:
        """Answers to several prompts in one batch."""
        generated = self._generate(prompts, sampling, None)
        return [self._shown(self._decode(ids)) for ids in generated]

    def shown(self, ids: list[int]) -> str:
        """Token ids of a response as the text that a user sees."""
        return self._shown(self._decode(ids))

    def stream(
        self, prompt: list[int], sampling: Sampling, *, strips_prefix: bool = True
    ) -> Iterator[str]:
        """The answer piece by piece, as it comes; together they are what ``answer`` gives."""
        tokens: Queue[int | BaseException | None] = Queue()
        Thread(target=self._produce, args=(prompt, sampling, tokens), daemon=True).start()
        ids: list[int] = []
        shown = ""
        while (token := tokens.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            if token in self.stop_token_ids:
                continue
            ids.append(token)
            text = self._settled(self._decode(ids), strips_prefix=strips_prefix)
            if text.startswith(shown) and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
        whole = self._decode(ids)
        yield (self._shown(whole) if strips_prefix else whole)[len(shown) :]

    def _produce(
        self, prompt: list[int], sampling: Sampling, tokens: Queue[int | BaseException | None]
    ) -> None:
        try:
            self._generate([prompt], sampling, tokens.put)
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that prints
            tokens.put(error)
        tokens.put(None)

    def _settled(self, text: str, *, strips_prefix: bool) -> str:
        """What can be shown before the answer is whole: it can only grow at its end."""
        if text.endswith("�"):  # half a character
            return ""
        if not strips_prefix:
            return text
        prefix = self.layout.response_prefix.strip()
        start = text.lstrip()
        if prefix.startswith(start):
            return ""  # may still become the prefix
        return start.removeprefix(prefix).lstrip().rstrip()

    def _shown(self, text: str) -> str:
        return text.strip().removeprefix(self.layout.response_prefix.strip()).strip()

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _generate(
        self, prompts: list[list[int]], sampling: Sampling, on_token: OnToken | None
    ) -> list[list[int]]:
        with self.asked() as model:
            return generate(
                model,
                prompts,
                sampling,
                stop_token_ids=self.stop_token_ids,
                pad_token_id=self.tokenizer.pad_token_id,
                on_token=on_token,
            )


def open_answerer(run: TrainedRun, *, is_base: bool = False) -> Answerer:
    """Loads a run, or a merged model, to ask it.

    Args:
        run: From ``open_run``.
        is_base: Ask the base below the adapter.

    Raises:
        UserError: ``is_base`` where no base is beside the model.
    """
    return answerer_of(run, run.load(), is_base=is_base)


def answerer_of(run: TrainedRun, loaded: LoadedModel, *, is_base: bool = False) -> Answerer:
    """An answerer for a model that is loaded already; it uses the run's first layout."""
    if is_base and not loaded.has_adapter:
        raise UserError(
            Problem(
                "holds a whole model: there is no base beside it",
                str(run.folder),
                fix="ask the base model's own folder with --raw",
            )
        )
    return Answerer(loaded, run.layouts[0], is_base=is_base)
