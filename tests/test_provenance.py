import subprocess
from pathlib import Path

import pytest

from cifarlib import InputError, project_root, provenance


def test_the_code_version_comes_from_git(monkeypatch, tmp_path):
    assert len(provenance.code_version()["commit"]) == 40
    # a folder inside another checkout is not that checkout
    for folder in (tmp_path, Path(provenance.__file__).parent):
        monkeypatch.setattr(provenance, "project_root", lambda folder=folder: folder)
        assert provenance.code_version() == {"commit": None, "dirty": None}


def test_a_change_of_the_code_is_dirty_and_one_elsewhere_is_not(monkeypatch, tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "cifarlib").mkdir()
    module = tmp_path / "cifarlib" / "provenance.py"
    module.touch()
    git("init")
    monkeypatch.setattr(provenance, "project_root", lambda: tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.code_version()["commit"] is None
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "notes.txt").touch()
    assert provenance.code_version()["dirty"] is False
    (tmp_path / "cifarlib" / "new.py").touch()
    assert provenance.code_version()["dirty"] is True


def test_a_checkout_of_another_user_is_said_with_gits_own_way_out(monkeypatch, caplog):
    refusal = "fatal: detected dubious ownership\n  git config --global --add safe.directory /x"
    done = subprocess.CompletedProcess([], 128, stdout="", stderr=refusal)
    monkeypatch.setattr(provenance.subprocess, "run", lambda *_, **__: done)
    assert provenance.code_version() == {"commit": None, "dirty": None}
    assert "detected dubious ownership git config --global --add safe.directory" in caplog.text


def test_the_code_of_one_checkout_does_not_run_in_another(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "run1.yaml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    says = f"runs in {tmp_path}, but the code of cifarlib comes from"
    with pytest.raises(InputError, match=says):
        project_root()
