from pathlib import Path

import torch

from cifarlib import provenance


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
