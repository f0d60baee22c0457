import json
import re
import tarfile
import time

import pytest

from cifarlib import InputError, gpu_session, project_root
from cifarlib.gpu_session import Session, train_all, use, wanted
from cifarlib.params import load_params, run_names

TINY = {"seeds": [0], "epochs": 1, "train_images": 256}


def test_table_1_comes_first_then_the_fast_recipe_and_every_run_has_its_turn():
    order = [(p.run, p.seed) for p in wanted(run_names(), [0, 1])]
    assert [run for run, _ in order[:9]] == [
        *("run7", "run1", "run2", "run3", "run4", "run5", "run6"),
        "fast",
        "fast-adamw",
    ]
    assert sorted(order) == sorted((run, seed) for seed in (0, 1) for run in run_names())
    assert {seed for _, seed in order[: len(run_names())]} == {0}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"minutes": 0}, "minutes = 0"),
        ({"device": "cuda:99"}, "device = 'cuda:99' is not there"),
        ({"runs": ["run99"]}, "run = 'run99'"),
        ({"epochs": -1}, "epochs = -1"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_else(given, error, tmp_path):
    how = {"minutes": 1, "device": "cpu", "runs": ["run7"]} | given
    with pytest.raises(InputError, match=re.escape(error)):
        use(output_folder=str(tmp_path), data_folder=None, **how)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_fails_leaves_the_others_and_what_is_done_stays_done(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        gpu_session,
        "TESTS",
        ("tests/test_loop.py::test_views_are_the_weighted_mean_of_six_predictions",),
    )
    monkeypatch.setattr(gpu_session, "SHORT", {"epochs": 1, "train_images": 128})
    monkeypatch.setattr(gpu_session, "BENCHMARK", "raise SystemExit('the benchmark broke')")
    given = (30, "cpu", str(tmp_path), str(project_root() / "data"), ["run7", "run6"])
    (tmp_path / "benchmark" / "gpu").mkdir(parents=True)
    (tmp_path / "benchmark" / "gpu" / "record.json").write_text("{}")
    assert not use(*given, **TINY)
    states = json.loads((tmp_path / "gpu" / "parts.json").read_text())
    assert (states["tests"], states["short runs"]) == ("done", "done")
    assert states["benchmark"] == f"failed, see {tmp_path}/gpu/benchmark.log"
    assert "the benchmark broke" in (tmp_path / "gpu" / "benchmark.log").read_text()
    assert "1 passed" in (tmp_path / "gpu" / "tests.log").read_text()
    with tarfile.open(tmp_path / "gpu" / "records.tar.gz") as tar:
        names = tar.getnames()
    for run in ("run6", "run7"):
        assert f"{run}/seed0-epochs1-images256/record.json" in names
        assert f"{run}/seed0-epochs1-images256/predictions.npz" in names
    assert {
        "gpu/tests.log",
        "gpu/benchmark.log",
        "gpu/parts.json",
        "benchmark/gpu/record.json",
    } <= set(names)
    assert not [name for name in names if name.endswith("safetensors")]
    first = capsys.readouterr().out
    assert first.index("run7/seed0-epochs1-images256: validation") < first.index(
        "run6/seed0-epochs1-images256: validation"
    )

    monkeypatch.setattr(gpu_session, "BENCHMARK", "")
    monkeypatch.setattr(gpu_session, "TESTS", ("no such test",))
    monkeypatch.setattr(gpu_session, "train_within", lambda *_: pytest.fail("trained again"))
    assert use(*given, **TINY)
    assert "records: done" in capsys.readouterr().out
    monkeypatch.setattr(gpu_session, "device_name", lambda device: "another")
    monkeypatch.setattr(
        gpu_session, "run_python", lambda session, log, *arguments: f"failed, see {log}"
    )
    monkeypatch.setattr(gpu_session, "train_all", lambda session, todo: "done")
    assert not use(1, *given[1:], **TINY)  # nothing of what one device did is taken for another's
    assert "benchmark: not begun, needs a session of more than 1 minutes" in capsys.readouterr().out


def test_when_the_time_is_over_a_run_keeps_its_epochs_and_goes_on_later(tmp_path):
    params = [
        load_params("fast", batch_size=128, train_images=256, epochs=1000),
        load_params(7, epochs=1, train_images=128),
    ]
    now = time.time()
    state = train_all(Session("cpu", tmp_path, None, now, now + 30), params)
    assert state == "stopped when the time was over, 0 done"
    assert (tmp_path / params[0].folder / "unfinished" / "checkpoint.pt").exists()
    assert not (tmp_path / params[1].folder).exists()
    now = time.time()
    assert (
        train_all(Session("cpu", tmp_path, None, now, now), params)
        == "stopped when the time was over, 0 done"
    )


def test_a_run_that_fails_is_named_and_the_next_is_trained(tmp_path, capsys):
    broken = load_params(
        "run7",
        epochs=2,
        train_images=256,
        learning_rate=1000.0,
        optimizer="adamw",
        weight_decay=900.0,
    )
    good, now = load_params(7, epochs=1, train_images=128), time.time()
    state = train_all(Session("cpu", tmp_path, None, now, now + 300), [broken, good])
    assert state.startswith(f"failed: {broken.folder}: Diverged: the loss of run7")
    assert (tmp_path / good.folder / "record.json").exists()
    assert f"{good.folder}: validation" in capsys.readouterr().out
