import subprocess
from pathlib import Path

import pytest
import torch

from cifarlib import InputError, project_root, provenance


def test_the_code_version_comes_from_git_or_a_variable(monkeypatch, tmp_path):
    assert len(provenance.code_version()["commit"]) == 40
    monkeypatch.setattr(provenance, "project_root", lambda: tmp_path)
    monkeypatch.setenv("CIFARLIB_COMMIT", "abc")
    assert provenance.code_version() == {"commit": "abc", "dirty": None}
    # a folder inside another checkout is not that checkout
    package = Path(provenance.__file__).parent
    monkeypatch.setattr(provenance, "project_root", lambda: package)
    assert provenance.code_version() == {"commit": "abc", "dirty": None}


def test_where_git_does_not_answer_it_is_not_said_to_be_clean(monkeypatch):
    git = provenance._git
    monkeypatch.setattr(
        provenance, "_git", lambda *arguments: None if arguments[0] == "status" else git(*arguments)
    )
    assert provenance.code_version()["dirty"] is None


def test_versions_device_and_memory_are_named():
    assert provenance.package_versions()["torch"] == torch.__version__.partition("+")[0]
    assert f"{torch.get_num_threads()} thread" in provenance.device_name(torch.device("cpu"))
    assert 50e6 < provenance.peak_memory_bytes(torch.device("cpu")) < 100e9


def test_a_checkout_of_another_user_is_said_with_gits_own_way_out(monkeypatch, caplog):
    refusal = "fatal: detected dubious ownership\n  git config --global --add safe.directory /x"
    done = subprocess.CompletedProcess([], 128, stdout="", stderr=refusal)
    monkeypatch.setattr(provenance.subprocess, "run", lambda *_, **__: done)
    assert provenance.code_version()["commit"] is None
    assert "detected dubious ownership git config --global --add safe.directory" in caplog.text


def test_the_code_of_one_checkout_does_not_run_in_another(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "run1.yaml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    with pytest.raises(
        InputError, match=f"runs in {tmp_path}, but the code of cifarlib comes from"
    ):
        project_root()
