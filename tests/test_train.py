import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_loop import training_on

from cifarlib import InputError, records, status
from cifarlib.evaluate import accuracy, mean_loss
from cifarlib.loop import Diverged, Lookahead, train_step
from cifarlib.model import build_model
from cifarlib.params import load_params, run_names
from cifarlib.predict import load_model
from cifarlib.train import Interrupted, train

SHORT = {"train_images": 256, "epochs": 3}
on_cpu = partial(train, device="cpu")


def history_of(folder):
    rows = records.read_history(folder)
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def outcome(folder):
    """All of a run that must not depend on when or how often it was stopped."""
    tensors, _ = records.read_model(folder / "model.safetensors")
    arrays = records.read_predictions(folder) | tensors
    return history_of(folder), {name: array.tolist() for name, array in arrays.items()}


class StopAt:
    """The stop button, pressed once so many epochs are done."""

    def __init__(self, epochs):
        self.epochs = epochs

    def __call__(self, epochs, history):
        if epochs >= self.epochs:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    return on_cpu(load_params(7, **SHORT), small, tmp_path_factory.mktemp("undisturbed"))


def test_the_record_says_what_ran_and_what_came_out(undisturbed, small):
    record = records.read_record(undisturbed)
    assert undisturbed.parts[-2:] == ("run7", "seed0-epochs3-images256")
    expected = {
        "run": "run7",
        "seed": 0,
        "epochs": 3,
        "epochs_trained": 3,
        "train_images": 256,
        "loss_reduction": "sum",
        "device": "cpu",
        "parameter_count": 1_972_792,
    }
    assert expected.items() <= record.items()
    assert record["data_sha256"].startswith(small.sha256[:64])
    assert {"commit", "dirty", "packages", "parameters"} <= set(record)
    assert len(record["epoch_seconds"]) == 3
    history = records.read_history(undisturbed)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["validation_accuracy"] == record["validation_accuracy"]
    predictions = records.read_predictions(undisturbed)
    assert np.array_equal(predictions["validation_labels"], small.validation.labels)
    for part in ("validation", "test"):
        computed = accuracy(predictions[part], predictions[f"{part}_labels"])
        assert computed == record[f"{part}_accuracy"]
        assert record[f"{part}_accuracy_views"] is None  # on part of the data
    loss = mean_loss(torch.from_numpy(predictions["test"]), small.test.labels, 0.2)
    assert loss == pytest.approx(record["test_loss"], rel=1e-6)
    assert not (undisturbed / "unfinished").exists()


def test_the_log_has_the_papers_format(undisturbed):
    record = records.read_record(undisturbed)
    last = records.read_history(undisturbed)[2]
    lines = (undisturbed / "log.txt").read_text().splitlines()
    loss, seconds = f"{last['last_batch_loss']:.6f}", f"{last['train_seconds']:.3f}"
    assert lines[2] == f"Epoch 3 Loss {loss} Duration {seconds} seconds."
    assert lines[3:5] == ["Checkpoint has been created.", "### Validation ###"]
    assert lines[5].startswith(f"Valid accuracy: {record['validation_accuracy']:.4f} Loss ")
    # run 7's loss is a sum, over the batch as over the validation images
    summed = float(lines[5].split()[-1])
    assert summed == pytest.approx(100 * record["validation_loss"], rel=1e-5)
    assert last["last_batch_loss"] > 64 * last["train_loss"]


def test_the_saved_model_gives_the_saved_predictions(undisturbed, small):
    trained = load_model(undisturbed, "cpu")
    logits = trained.logits(small.test.images).clamp(-65504, 65504)
    saved = torch.from_numpy(records.read_predictions(undisturbed)["test"])
    torch.testing.assert_close(logits, saved, rtol=2e-3, atol=2e-3)


def test_the_whitening_layer_stays_and_its_bias_moves(undisturbed):
    tensors, _ = records.read_model(undisturbed / "model.safetensors")
    first = tensors["net.0.weight"]
    assert torch.equal(first[:12], -first[12:])
    assert (first.numpy() == np.load(undisturbed / "first_layer.npy")).all()
    assert not torch.equal(tensors["net.0.bias"], build_model(0, first).first_layer.bias)


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(device, small, tmp_path):
    train_it = partial(train, data=small, device=device, deterministic=True)
    p = load_params(7, **SHORT)
    one, two = (train_it(p, output_folder=tmp_path / name) for name in "ab")
    assert outcome(one) == outcome(two)
    other = train_it(dataclasses.replace(p, seed=1), output_folder=tmp_path)
    assert history_of(other) != history_of(one)


TRAIN = """
import sys
from made_up import few
from cifarlib.data import load_cifar10
from cifarlib.params import load_params
from cifarlib.train import train
params = load_params(7, train_images=256, epochs=3)
train(params, few(load_cifar10(), 512, 100, 100), sys.argv[1], device="cpu",
      progress=lambda epochs, history: print(epochs, flush=True))
"""


def start(folder):
    command = [sys.executable, "-c", TRAIN, str(folder)]
    options = {"cwd": Path(__file__).parent, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **options)


def test_killed_and_resumed_equals_undisturbed(undisturbed, tmp_path):
    first = start(tmp_path)
    for line in first.stdout:
        if float(line) > 1.3:  # in the second epoch
            break
    first.send_signal(signal.SIGKILL)
    first.wait()
    folder = tmp_path / "run7" / "seed0-epochs3-images256"
    with pytest.raises(InputError, match="unfinished"):
        records.read_record(folder)
    second = start(tmp_path)
    out, err = second.communicate()
    assert second.returncode == 0, err
    assert float(out.split()[0]) == 1.0
    assert outcome(folder) == outcome(undisturbed)
    assert [s["first_epoch"] for s in records.read_record(folder)["sessions"]] == [1, 2]


@pytest.mark.parametrize("run", [1, 2, 7, "best"])
def test_stopped_says_what_is_saved_and_resumes(run, device, small, tmp_path, monkeypatch):
    monkeypatch.setattr(Lookahead, "IMAGES", 128)  # so that it acts in such a short run
    monkeypatch.setattr("cifarlib.train.CHECKPOINT_SECONDS", 0)
    p = dataclasses.replace(load_params(run), batch_size=128, **SHORT)
    train_it = partial(train, p, small, device=device, deterministic=True)
    saved = r"2 of 3 epochs are saved in .*seed0-epochs3-images256"
    with pytest.raises(Interrupted, match=saved):
        train_it(tmp_path / "stopped", progress=StopAt(2.5))
    assert outcome(train_it(tmp_path / "stopped")) == outcome(train_it(tmp_path / "whole"))


def test_only_what_is_saved_is_promised(small, tmp_path, monkeypatch):
    # as on a GPU, whose epochs are short
    monkeypatch.setattr("cifarlib.checkpoint.save", lambda folder, state: None)
    with pytest.raises(Interrupted, match="0 of 3 epochs are saved"):
        on_cpu(load_params(7, **SHORT), small, tmp_path, progress=StopAt(2.5))


@pytest.mark.parametrize("last_file", ["first_layer.npy", "history.csv"])
def test_stopped_while_the_record_is_left_only_the_record_is_made(
    last_file, undisturbed, small, tmp_path, monkeypatch
):
    p = load_params(7, **SHORT)
    replace = os.replace

    def stopping(source, target):
        if Path(source).name == last_file:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stopping)
        with pytest.raises(Interrupted, match="3 of 3 epochs are saved"):
            on_cpu(p, small, tmp_path)
    assert status.read(tmp_path / p.folder) == ("unfinished", "3 epochs saved")
    seen = []
    folder = on_cpu(p, small, tmp_path, progress=lambda epochs, history: seen.append(epochs))
    assert seen == [3]
    assert outcome(folder) == outcome(undisturbed)


def test_a_finished_record_stays_until_the_new_one_is_complete(small, tmp_path):
    p = load_params(7, train_images=128, epochs=2)
    folder = on_cpu(p, small, tmp_path)
    before = (folder / "record.json").read_text()
    with pytest.raises(Interrupted):
        on_cpu(p, small, tmp_path, progress=StopAt(1))
    assert (folder / "record.json").read_text() == before
    records.read_record(folder)
    on_cpu(p, small, tmp_path)
    assert (folder / "record.json").read_text() != before


def test_stop_epoch_follows_the_whole_schedule_up_to_there(undisturbed, small, tmp_path):
    folder = on_cpu(load_params(7, stop_epoch=2, **SHORT), small, tmp_path)
    assert history_of(folder) == history_of(undisturbed)[:2]
    assert records.read_record(folder)["epochs_trained"] == 2


def test_sum_loss_equals_mean_loss_at_128_times_the_rate(small, tmp_path):
    summed = load_params(7, **SHORT)
    scaled = {"learning_rate": 128 * 0.08, "weight_decay": 0.02 / 128}
    mean = dataclasses.replace(summed, loss_reduction="mean", **scaled)
    one, two = (
        history_of(on_cpu(p, small, tmp_path / p.loss_reduction, precision="float32"))
        for p in (summed, mean)
    )
    for a, b in zip(one, two, strict=True):
        for column in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            assert a[column] == pytest.approx(b[column], rel=1e-5), column
        assert a["last_batch_loss"] == pytest.approx(128 * b["last_batch_loss"], rel=1e-5)


def test_it_learns(small, device, tmp_path):
    folder = train(load_params(6, train_images=512, stop_epoch=8), small, tmp_path, device=device)
    assert records.read_history(folder)[-1]["train_accuracy"] > 0.35  # chance: 0.1


def test_one_step_is_the_textbooks_sgd_on_every_device(small, device):
    """Nesterov momentum and coupled weight decay, written out on the CPU."""
    split = small.train.head(128)
    training = training_on(split, load_params(7), device, "float32")
    twin = copy.deepcopy(training.model).cpu()
    x = training.normalizer.apply(training.images)
    logits = twin(x.cpu())
    expected = F.cross_entropy(logits, split.labels, label_smoothing=0.2, reduction="sum")
    expected.backward()
    loss, _ = train_step(training, x, training.labels)
    torch.testing.assert_close(loss.cpu(), expected.detach(), rtol=1e-3, atol=1e-3)
    # of two almost equal inputs another device's pooling may take the other
    error = 1e-3 if device == "cpu" else 1e-2
    for ours, theirs in zip(training.model.parameters(), twin.parameters(), strict=True):
        if theirs.requires_grad:
            gradient = theirs.grad + 0.02 * theirs.detach()
            stepped = theirs.detach() - 0.08 * (gradient + 0.9 * gradient)
            assert (ours.cpu() - stepped).norm() <= error * (stepped - theirs).norm()


def test_a_diverged_loss_is_one_error_and_keeps_the_checkpoint(small, tmp_path):
    p = dataclasses.replace(
        load_params(7, **SHORT), learning_rate=1000.0, optimizer="adamw", weight_decay=900.0
    )
    reason = r"run7 is .* in epoch (\d).*learning_rate below 1000.*weight_decay below 900"
    with pytest.raises(Diverged, match=reason) as caught:
        on_cpu(p, small, tmp_path)
    epoch = int(str(caught.value).partition(" in epoch ")[2][0])
    assert len(list(tmp_path.glob("**/checkpoint.pt"))) == (epoch > 1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"resume": "false"}, "resume = 'false'"),
        ({"deterministic": 0}, "deterministic = 0"),
        ({"capture": 1}, "capture = 1"),
        ({"precision": "half"}, "precision = 'half'"),
        ({"output_folder": 2026}, "output_folder = 2026: give a path"),
        ({"output_folder": "/proc/no"}, "output_folder: /proc/no/run7/.* cannot be written"),
    ],
)
def test_what_cannot_be_is_named_before_training(given, says, small, tmp_path):
    usual = {"params": load_params(7, **SHORT), "data": small, "output_folder": tmp_path}
    with pytest.raises(InputError, match=says):
        train(**usual | given)


def test_a_disk_full_in_the_middle_keeps_the_last_checkpoint(
    undisturbed, small, tmp_path, monkeypatch
):
    save = torch.save

    def full(state, file):
        if len(state["history"]) == 2:
            raise OSError(28, "No space left on device")
        save(state, file)

    p = load_params(7, **SHORT)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"epoch 2 could not be saved.*goes on from there"):
            on_cpu(p, small, tmp_path)
    assert outcome(on_cpu(p, small, tmp_path)) == outcome(undisturbed)


@pytest.fixture
def unfinished(small, tmp_path):
    """The folder of a run stopped in its second epoch."""
    p = load_params(7, train_images=128, epochs=3)
    with pytest.raises(Interrupted):
        on_cpu(p, small, tmp_path, precision="float32", progress=StopAt(1.5))
    return tmp_path / p.folder


def test_a_resumed_run_keeps_its_precision(unfinished, small, tmp_path, monkeypatch):
    # as if the machine had become another one
    monkeypatch.setattr("cifarlib.device.choice.pick_precision", lambda _: "bfloat16")
    folder = on_cpu(load_params(7, train_images=128, epochs=3), small, tmp_path)
    assert records.read_record(folder)["precision"] == "float32"


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_checkpoint_is_refused(unfinished, small, tmp_path, damage):
    path = unfinished / "unfinished" / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) // 2 if damage == "truncate" else 0 :]
    path.write_bytes(content)
    p = load_params(7, train_images=128, epochs=3)
    with pytest.raises(InputError, match=r"damaged.*resume = False"):
        on_cpu(p, small, tmp_path)
    on_cpu(p, small, tmp_path, resume=False)
    assert len(records.read_history(unfinished)) == 3


def test_a_checkpoint_of_other_parameters_precision_or_data_is_refused(unfinished, small, tmp_path):
    p = dataclasses.replace(load_params(7, train_images=128, epochs=3), momentum=0.8)
    unfinished.rename(tmp_path / p.folder)  # as if the params file had been edited since
    with pytest.raises(InputError, match=r"other settings .momentum 0.9, now 0.8\)"):
        on_cpu(p, small, tmp_path)
    with pytest.raises(InputError, match=r"precision 'float32', now 'bfloat16'; data_sha256 '"):
        on_cpu(p, dataclasses.replace(small, sha256="0"), tmp_path, precision="bfloat16")


def test_two_processes_do_not_write_to_one_folder(small, tmp_path):
    second = []

    def begin_another(epochs, history):
        second.append(start(tmp_path).communicate()[1])
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        on_cpu(load_params(7, **SHORT), small, tmp_path, progress=begin_another)
    assert "another process is training in" in second[0]


def test_bfloat16_trains_like_float32_and_where_it_is_slow_that_is_said(
    small, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("cifarlib.device.choice.cpu_multiplies_bfloat16", lambda: False)
    losses = {}
    for precision in ("float32", "bfloat16"):
        p = load_params("run7-mean", train_images=256, epochs=2)
        folder = on_cpu(p, small, tmp_path / precision, precision=precision)
        assert json.loads((folder / "record.json").read_text())["precision"] == precision
        losses[precision] = records.read_history(folder)[-1]["train_loss"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert caplog.text.count("very slow on this CPU") == 1


@pytest.mark.parametrize("run", [name for name in run_names() if name.startswith("fast")])
def test_every_fast_arm_trains_and_is_evaluated_with_and_without_views(
    run, small, tmp_path, monkeypatch
):
    monkeypatch.setattr("cifarlib.train.TRAIN_IMAGES", 256)  # as if these were all
    p = dataclasses.replace(load_params(run), batch_size=128, train_images=256, epochs=1)
    folder = on_cpu(p, small, tmp_path, precision="float32")
    record = records.read_record(folder)
    assert np.isfinite(record["train_loss"])
    for views in (False, True):
        logits = load_model(folder, "cpu").logits(small.test.images, views=views)
        share = record["test_accuracy_views" if views else "test_accuracy"]
        assert share == pytest.approx(accuracy(logits, small.test.labels), abs=0.011)


def test_all_images_may_train_and_then_nothing_is_validated(small, tmp_path, monkeypatch):
    for module in ("train", "loop"):  # 512 + 100 images, as the file has 40,000 + 10,000
        monkeypatch.setattr(f"cifarlib.{module}.TRAIN_IMAGES", 512)
    p = dataclasses.replace(load_params("fast94"), batch_size=128, epochs=2, train_images=612)
    folder = on_cpu(p, small, tmp_path)
    record = records.read_record(folder)
    named = record["train_images"], record["validation_images"], record["validation_accuracy"]
    assert named == (612, 0, None)
    assert record["test_accuracy"] >= 0
    assert all(np.isnan(row["validation_accuracy"]) for row in history_of(folder))
    assert len(records.read_predictions(folder)["validation"]) == 0
