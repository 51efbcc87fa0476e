from __future__ import annotations

import os

from ft.model.hardware import _cpu_name, _left_of_group


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


def test_a_containers_limit_counts_without_the_files_that_were_read(tmp_path):
    assert _left_of_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert _left_of_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _left_of_group(tmp_path) == 100
    (tmp_path / "memory.stat").write_text(
        "anon 200\nfile 700\nfile_mapped 9\ninactive_file 400\nactive_file 250\nshmem 50\n"
    )
    assert _left_of_group(tmp_path) == 750
