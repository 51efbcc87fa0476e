from __future__ import annotations

import os

from ft.model.hardware import _cpu_name


def test_a_processor_is_named_as_linux_names_it(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC\nstepping\t: 1\n" * 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert _cpu_name(cpuinfo) == "AMD EPYC, 2 cores"
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert _cpu_name(cpuinfo) == "AMD EPYC, 1 core"


def test_a_processor_without_a_model_name_has_that_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert _cpu_name(tmp_path / "none").startswith("aarch64, ")
