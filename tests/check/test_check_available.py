"""How much memory may still be taken, by Linux's files or by the count of pages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zeta.base.process.available import available_memory


def group_of(folder: Path, limit: str, used: str) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n", encoding="ascii")
    (folder / "memory.current").write_text(f"{used}\n", encoding="ascii")
    return folder


def test_the_smaller_of_the_machine_and_of_the_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:   50 kB\n", encoding="ascii")
    assert available_memory(meminfo, tmp_path) == 50 * 1024
    assert available_memory(meminfo, group_of(tmp_path, "40960", "30720")) == 10240
    assert available_memory(meminfo, group_of(tmp_path, "30720", "40960")) == 0
    assert available_memory(meminfo, group_of(tmp_path, "max", "40960")) == 50 * 1024
    assert available_memory(tmp_path / "none", group_of(tmp_path, "409600", "0")) == 409600


def test_elsewhere_pages_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10}

    def sysconf(name: str) -> int:
        if name not in sizes:
            raise ValueError("unrecognized configuration name")
        return sizes[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert available_memory(tmp_path / "none", tmp_path) == 40960
    sizes["SC_AVPHYS_PAGES"] = 3
    assert available_memory(tmp_path / "none", tmp_path) == 3 * 4096
    monkeypatch.delattr(os, "sysconf")
    assert available_memory(tmp_path / "none", tmp_path) is None
