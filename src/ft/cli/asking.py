"""The ways of `ft infer`: one prompt, a record, a file of records, a chat."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.cli.output import say
from ft.runtime import Problem, UserError

if TYPE_CHECKING:
    from ft.evaluate.answer import Answerer
    from ft.evaluate.generate import Sampling


@dataclass(frozen=True)
class Question:
    """What was asked on the command line."""

    prompt: str | None
    fields: tuple[str, ...]
    record: str | None
    input: Path | None
    output: Path | None
    is_chat: bool
    is_raw: bool

    def check(self) -> None:
        """Before anything is loaded.

        Raises:
            UserError: nothing is asked, two things are, or what is asked can't be read.
        """
        given = [
            self.prompt is not None,
            self.record is not None,
            self.input is not None,
            self.is_chat,
        ]
        if sum(given) > 1 or not (any(given) or self.fields):  # fields may be all of a record
            raise UserError(
                Problem(
                    "nothing to ask" if not any(given) else "more than one thing to ask",
                    fix='give one of: --prompt "TEXT", --field NAME=TEXT, --record JSON, '
                    "--input FILE, --chat",
                )
            )
        if self.is_raw and self.prompt is None:
            raise UserError(Problem("--raw goes with --prompt"))
        if self.is_raw and (self.fields or not self.prompt):
            what = "--raw takes no --field" if self.fields else "the prompt is empty"
            raise UserError(Problem(what))
        if self.output is not None and self.input is None:
            raise UserError(Problem("--output goes with --input"))
        self.named_fields()
        if self.record is not None:
            parse_record(self.record, "--record")
        if self.input is not None:
            self._check_files(self.input)

    def _check_files(self, source: Path) -> None:
        if not source.is_file():
            raise UserError(
                Problem("is no file" if source.exists() else "no such file", str(source))
            )
        if self.output is None:
            return
        if self.output.exists() and self.output.samefile(source):
            raise UserError(Problem("would be overwritten by its answers", str(source)))
        if self.output.is_dir() or not self.output.absolute().parent.is_dir():
            raise UserError(Problem("is no place for a file", str(self.output)))

    def named_fields(self) -> dict[str, Any]:
        """``--field name=text`` as a mapping."""
        pairs = [text.partition("=") for text in self.fields]
        for name, equals, _ in pairs:
            if not equals:
                raise UserError(Problem(f"got {name!r}, expected NAME=TEXT", "--field"))
        return {name: text for name, _, text in pairs}


def ask(answerer: Answerer, question: Question, sampling: Sampling) -> None:
    """Asks and prints."""
    fields = question.named_fields()
    answerer.require_known(fields)
    if question.is_chat:
        _chat(answerer, fields, sampling)
    elif question.input is not None:
        _ask_file(answerer, question.input, question.output, fields, sampling)
    elif question.is_raw:
        _print_answer(answerer, answerer.raw_prompt(question.prompt or ""), sampling, strips=False)
    else:
        record = parse_record(question.record, "--record") if question.record else {}
        prompt = answerer.prompt({**record, **fields}, text=question.prompt)
        _print_answer(answerer, prompt, sampling)


def _print_answer(
    answerer: Answerer, prompt: list[int], sampling: Sampling, *, strips: bool = True
) -> str:
    """On a terminal as it comes, elsewhere when it is whole."""
    if not sys.stdout.isatty():
        answer = answerer.answer(prompt, sampling, strips_prefix=strips)
        say(answer)
        return answer
    answer = ""
    for piece in answerer.stream(prompt, sampling, strips_prefix=strips):
        answer += piece
        say(piece, end="")
    say("")
    return answer


def _ask_file(
    answerer: Answerer,
    source: Path,
    target: Path | None,
    fields: dict[str, Any],
    sampling: Sampling,
) -> None:
    """One JSON line a record, with its ``prediction``; nothing is written if one can't be asked."""
    records = list(read_records(source))
    prompts = [answerer.prompt({**record, **fields}, text=None) for record in records]
    out = target.open("w", encoding="utf-8") if target else sys.stdout
    is_escaped = target is None and sys.stdout.isatty()  # an answer must not steer a terminal
    try:
        for record, prompt in zip(records, prompts, strict=True):
            line = {**record, "prediction": answerer.answer(prompt, sampling)}
            out.write(json.dumps(line, ensure_ascii=is_escaped) + "\n")
            out.flush()
    finally:
        if target:
            out.close()


def read_records(source: Path) -> Iterator[dict[str, Any]]:
    """The records of a file of JSON lines.

    Raises:
        UserError: a line is not UTF-8, or holds no object.
    """
    for number, line in enumerate(source.read_bytes().splitlines(), start=1):
        where = f"{source}:{number}"
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(Problem("is not UTF-8", where, fix="save it as UTF-8")) from None
        if text.strip():
            yield parse_record(text, where)


def _chat(answerer: Answerer, fields: dict[str, Any], sampling: Sampling) -> None:
    """A layout of turns remembers them; one of instructions answers each line by itself."""
    history: list[dict[str, str]] = []
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not text.strip():
            continue
        if answerer.takes_messages:
            history.append({"role": "user", "content": text})
            prompt = answerer.prompt({**fields, "messages": list(history)}, text=None)
        else:
            prompt = answerer.prompt(fields, text=text)
        answer = _print_answer(answerer, prompt, sampling)
        history.append({"role": "assistant", "content": answer})


def parse_record(text: str, where: str) -> dict[str, Any]:
    """A record that is written as a JSON object.

    Raises:
        UserError: it is none.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(Problem(f"is no JSON: {error}", where, text.strip()[:100])) from None
    if not isinstance(record, dict):
        raise UserError(Problem(f"expected a JSON object, got {type(record).__name__}", where))
    return record
