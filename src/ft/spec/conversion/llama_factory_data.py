"""LLaMA-Factory's data: names in `dataset:`, each described in dataset_info.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.conversion.chat_formats import CHAT_FORMATS, ChatFormat
from ft.spec.conversion.draft import Draft
from ft.spec.conversion.hf_arguments import names
from ft.spec.conversion.writer import Setting
from ft.spec.nearest import nearest

_INFO = "dataset_info.json"
_ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_PLAIN_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
                "system": "system", "tool": "tool"}  # fmt: skip
_MEDIA = ("images", "videos", "audios")
_NO_TOOLS = "tools are not written here; chat_template: tokenizer_default with field_tools does"
_SOURCES = {
    "ms_hub_url": "ModelScope is not read: download the set, and name the file as path",
    "om_hub_url": "Modelers is not read: download the set, and name the file as path",
    "script_url": "loading scripts are never run: convert the set to JSON or Parquet",
    "cloud_file_name": "cloud storage is not read: download the file, and name it as path",
}


def carry_datasets(draft: Draft, config: Path) -> None:
    """`dataset`, `eval_dataset` and what belongs to them become `datasets` and `test_datasets`.

    Args:
        draft: Of a LLaMA-Factory file.
        config: The file, beside which dataset_info.json is looked for too.

    Raises:
        UserError: dataset_info.json is there, but is no JSON.
    """
    folder = str(draft.take("dataset_dir", "data"))
    is_pretraining = draft.take("stage", "sft") == "pt"
    limit = draft.take("max_samples")
    writer = _Entries(draft, folder, *_read_info(folder, config), is_pretraining)
    for theirs, ours in (("dataset", "datasets"), ("eval_dataset", "test_datasets")):
        wanted = draft.take(theirs)
        if wanted is None:
            continue
        entries = [entry for name in names(wanted) if (entry := writer.entry(name, limit))]
        if entries:
            draft.carry(theirs, ours, entries)
    if limit and ("datasets" in draft.ours or "test_datasets" in draft.ours):
        draft.carried["max_samples"] = "datasets"
    writer.finish()


def _read_info(folder: str, config: Path) -> tuple[dict[str, Any] | None, Path]:
    """What dataset_info.json says, and the folder it is in; None where there is none."""
    if folder == "ONLINE":
        return {}, Path(folder)
    roots = [Path(), *config.absolute().parents]
    for found in (root / folder for root in roots):
        if (found / _INFO).is_file():
            try:
                return json.loads((found / _INFO).read_text(encoding="utf-8-sig")), found
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise UserError(Problem(f"not valid JSON: {error}", str(found / _INFO))) from None
    return None, Path(folder)


class _Entries:
    """Makes an entry of `datasets:` from each name, with what has to be said about it."""

    def __init__(
        self,
        draft: Draft,
        folder: str,
        info: dict[str, Any] | None,
        found: Path,
        is_pretraining: bool,
    ) -> None:
        self.draft = draft
        self.is_online = folder == "ONLINE"
        self.info = info
        self.folder = found if not found.is_absolute() else Path(os.path.relpath(found))
        self.is_pretraining = is_pretraining
        self.template = str(draft.take("template", ""))
        self.own_system = draft.take("default_system")
        self.uses_mapping = self.uses_messages = False
        if info is None:
            what = f"no {_INFO} in {folder}/, neither here nor above the config"
            draft.lose("dataset_dir", folder, f"{what}: check path and type of every data set")

    def entry(self, name: str, limit: Any) -> dict[str, Any] | None:
        """The entry for one name; None where it can't be trained on here."""
        if self.is_online:
            about: Mapping[str, Any] = {"hf_hub_url": name}
        elif self.info is None:
            about = {"file_name": name}
        elif name not in self.info:
            guess = nearest(name, self.info)
            self.draft.lose("dataset", name, f"not in {_INFO}" + (f"; {guess}?" if guess else ""))
            return None
        else:
            about = self.info[name]
        columns = about.get("columns") or {}
        if about.get("ranking") or "kto_tag" in columns:
            self.draft.lose("dataset", name, "preference records; only supervised tuning is done")
            return None
        entry = self._source(name, about)
        self._slice(entry, name, about, limit)
        for column in (*_MEDIA, "tools"):
            if column in columns:
                why = _NO_TOOLS if column == "tools" else "only texts are trained on"
                self.draft.lose(f"{name}: {column}", columns[column], why)
        return entry | self._layout(name, about, columns)

    def _source(self, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        if "hf_hub_url" in about:
            entry["path"] = about["hf_hub_url"]
            for key, ours in (("subset", "name"), ("revision", "revision")):
                if about.get(key):
                    entry[ours] = about[key]
            if about.get("folder"):
                entry["data_files"] = f"{about['folder']}/*"
            return entry
        for key, why in _SOURCES.items():
            if key in about:
                self.draft.lose(f"{name}: {key}", about[key], why)
                return {"path": Setting(f"{about[key]}", "not there yet: see the list")}
        file = str(about.get("file_name", name))
        path = self.folder / file
        remark = "" if self.info is not None else f"as written; {_INFO} was not found"
        return {"path": Setting(str(path), remark)}

    def _slice(
        self, entry: dict[str, Any], name: str, about: Mapping[str, Any], limit: Any
    ) -> None:
        split = about.get("split") or "train"
        if about.get("num_samples"):
            draws = "LLaMA-Factory draws so many at random; here they are the first ones"
            self.draft.change(f"{name}: num_samples", draws)
        counts = [int(count) for count in (limit, about.get("num_samples")) if count]
        if counts:
            entry["split"] = f"{split}[:{min(counts)}]"
        elif split != "train":
            entry["split"] = split

    # -- layouts ------------------------------------------------------------------------------

    def _layout(
        self, name: str, about: Mapping[str, Any], columns: Mapping[str, Any]
    ) -> dict[str, Any]:
        formatting = about.get("formatting", "alpaca")
        if self.is_pretraining:
            field = columns.get("prompt", "text" if columns == {} else "instruction")
            return {"type": "completion"} | ({} if field == "text" else {"field": field})
        if formatting in ("sharegpt", "openai"):
            return self._messages(about, columns)
        if formatting != "alpaca":
            self.draft.lose(f"{name}: formatting", formatting, "unknown; read as alpaca")
        return self._fields(name, columns or _ALPACA_COLUMNS)

    def _fields(self, name: str, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Records of single fields: the template as a mapping, where it can be said as one."""
        if columns.get("history"):
            why = "only the last question and answer are trained; write the turns as messages"
            self.draft.lose(f"{name}: history", columns["history"], why)
        self.uses_mapping = True
        instruction = str(columns.get("prompt") or "instruction")
        answer = str(columns.get("response") or "output")
        query, system = columns.get("query"), columns.get("system")
        form = self._format()
        layout = form.mapping(instruction, answer, query, system) if form else None
        if form and layout is None and form.is_system_in_user:
            self.draft.lose(
                f"{name}: system", system, f"{self.template} writes it inside the question"
            )
            layout = form.mapping(instruction, answer, query, None)
        if layout is not None:
            return {"type": layout}
        plain = (instruction, query or "input", answer) == ("instruction", "input", "output")
        why = (
            f"no mapping says template {self.template or '(none)'}; the prompt is alpaca's instead"
        )
        self.draft.change("template", why)
        form = CHAT_FORMATS["alpaca"]
        mapped = {"type": form.mapping(instruction, answer, query, system)}
        return {"type": "alpaca"} if plain and not system else mapped

    def _messages(self, about: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        self.uses_messages = True
        given = about.get("tags")
        tags = {key: given.get(key) for key in _TAGS} if given else _TAGS
        role, content = tags["role_tag"] or "role", tags["content_tag"] or "content"
        entry: dict[str, Any] = {"type": "chat_template"}
        field = columns.get("messages") or "conversations"
        if field != "messages":
            entry["field_messages"] = field
        if columns.get("system"):
            entry["field_system"] = columns["system"]
        if (role, content) != ("role", "content"):
            entry["message_property_mappings"] = {"role": role, "content": content}
        if self.draft.take("mask_history"):
            entry["roles_to_train"] = Setting([], "the last answer of each record alone")
            self.draft.carried["mask_history"] = "datasets.roles_to_train"
        named = {
            ours: [str(tags[key]) for key in keys if tags[key]]
            for ours, keys in (
                ("user", ("user_tag",)), ("assistant", ("assistant_tag", "function_tag")),
                ("system", ("system_tag",)), ("tool", ("observation_tag",)),
            )
        }  # fmt: skip
        spoken = {name: ours for ours, theirs in named.items() for name in theirs}
        usual = {**_PLAIN_ROLES, "observation": "tool", "function_call": "assistant"}
        if any(usual.get(name) != ours for name, ours in spoken.items()) or "tools" in columns:
            entry["roles"] = {ours: theirs for ours, theirs in named.items() if theirs}
        return entry

    def _format(self) -> ChatFormat | None:
        form = CHAT_FORMATS.get(self.template)
        if form is None or self.own_system is None:
            return form
        from dataclasses import replace

        return replace(form, default_system=str(self.own_system))

    # -- once all entries are made ------------------------------------------------------------

    def finish(self) -> None:
        """Top-level keys that the template asks for."""
        if self.is_pretraining or not (self.uses_mapping or self.uses_messages):
            return
        form = self._format()
        if form is None:
            self._unknown_template()
            return
        draft = self.draft
        if draft.peek("default_system"):
            draft.carried["default_system"] = "datasets"
        if self.uses_messages:
            if form == CHAT_FORMATS["chatml"]:
                draft.carry("template", "chat_template", "chatml")
            else:
                draft.carry("template", "chat_template", "jinja")
                draft.carry(
                    "template", "chat_template_jinja", form.jinja(),
                    comment=f"LLaMA-Factory's template {self.template}",
                )  # fmt: skip
        draft.carried["template"] = "chat_template" if self.uses_messages else "datasets.type"
        if form.end:
            end = {"eos_token": form.end}
            draft.carry(
                "template", "special_tokens", end, comment="ends an answer in this template"
            )
        if why := _difference(form, self.uses_mapping):
            draft.change("template", why)

    def _unknown_template(self) -> None:
        if self.uses_messages:
            why = (
                f"the tokenizer's own chat template is used in place of "
                f"{self.template or 'none'}; look at it with `ft preview`"
            )
            self.draft.carry("template", "chat_template", "tokenizer_default", changed=why)


def _difference(form: ChatFormat, uses_mapping: bool) -> str:
    """What this template trains on elsewhere and not here."""
    parts = [form.caveat] if form.caveat else []
    if form.after:
        parts.append("the line break behind an answer's end token is trained there, not here")
    if uses_mapping and form.before_answer:
        parts.append("the space in front of an answer is left to the tokenizer")
    if uses_mapping and not form.has_bos and not form.end:
        parts.append("a tokenizer that begins texts with a BOS token does so here")
    return "; ".join(parts)
