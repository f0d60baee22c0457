import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifarlib import InputError, records
from cifarlib.loop import Lookahead, Training, accuracy, make_optimizer, mean_loss, train_step
from cifarlib.model import build_model
from cifarlib.params import load_params, run_names
from cifarlib.predict import load_model
from cifarlib.preprocess import Normalizer, channel_statistics, make_normalizer
from cifarlib.train import Diverged, Interrupted, estimate_epoch_seconds, train

TIMES = ("train_seconds", "validation_seconds")
SHORT = {"train_images": 256, "epochs": 3}


def outcome(folder):
    """All of a run that must not depend on when or how often it was stopped."""
    history = [
        {k: v for k, v in row.items() if k not in TIMES} for row in records.read_history(folder)
    ]
    tensors, _ = records.load_model(folder / "model.safetensors")
    return (
        history,
        {k: v.tolist() for k, v in records.read_predictions(folder).items()},
        {k: v.tolist() for k, v in tensors.items()},
    )


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    return train(
        load_params(7, **SHORT), small, tmp_path_factory.mktemp("undisturbed"), device="cpu"
    )


def test_the_record_says_what_ran_and_what_came_out(undisturbed, small):
    record = records.read_record(undisturbed)
    assert undisturbed.parts[-2:] == ("run7", "seed0-epochs3-images256")
    assert (record["run"], record["seed"], record["epochs"], record["epochs_trained"]) == (
        "run7",
        0,
        3,
        3,
    )
    assert (record["train_images"], record["loss_reduction"], record["device"]) == (
        256,
        "sum",
        "cpu",
    )
    assert record["data_sha256"].startswith(small.sha256[:64])
    assert {"commit", "dirty", "packages", "parameters"} <= set(record)
    assert len(record["epoch_seconds"]) == 3
    assert record["parameter_count"] == 1_972_792
    history = records.read_history(undisturbed)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["validation_accuracy"] == record["validation_accuracy"]
    predictions = records.read_predictions(undisturbed)
    assert np.array_equal(predictions["validation_labels"], small.validation.labels)
    assert (
        accuracy(predictions["validation"], predictions["validation_labels"])
        == record["validation_accuracy"]
    )
    assert accuracy(predictions["test"], predictions["test_labels"]) == record["test_accuracy"]
    loss = mean_loss(torch.from_numpy(predictions["test"]), small.test.labels, 0.2)
    assert loss == pytest.approx(record["test_loss"], rel=1e-6)
    assert not (undisturbed / "unfinished").exists()


def test_the_log_has_the_papers_format(undisturbed):
    record, history = records.read_record(undisturbed), records.read_history(undisturbed)
    lines = (undisturbed / "log.txt").read_text().splitlines()
    last = history[2]
    assert (
        lines[2]
        == f"Epoch 3 Loss {last['last_batch_loss']:.6f} Duration {last['train_seconds']:.3f} seconds."
    )
    assert lines[3:5] == ["Checkpoint has been created.", "### Validation ###"]
    assert lines[5].startswith(f"Valid accuracy: {record['validation_accuracy']:.4f} Loss ")
    # run 7's loss is a sum, over the batch as over the validation images
    summed = float(lines[5].split()[-1])
    assert summed == pytest.approx(100 * record["validation_loss"], rel=1e-5)
    assert history[2]["last_batch_loss"] > 64 * history[2]["train_loss"]


def test_the_saved_model_gives_the_saved_predictions(undisturbed, small):
    trained = load_model(undisturbed, "cpu")
    logits = trained.logits(small.test.images)
    saved = torch.from_numpy(records.read_predictions(undisturbed)["test"])
    torch.testing.assert_close(logits.clamp(-65504, 65504), saved, rtol=2e-3, atol=2e-3)
    assert trained.description["classes"][3] == "cat"


def test_the_whitening_layer_stays_and_its_bias_moves(undisturbed):
    tensors, _ = records.load_model(undisturbed / "model.safetensors")
    first = tensors["net.0.weight"]
    assert torch.equal(first[:12], -first[12:])
    assert (first.numpy() == np.load(undisturbed / "first_layer.npy")).all()
    assert not torch.equal(tensors["net.0.bias"], build_model(0, first).first_layer.bias)


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(undisturbed, small, tmp_path):
    again = train(load_params(7, **SHORT), small, tmp_path, device="cpu")
    assert outcome(again) == outcome(undisturbed)
    other = train(load_params(7, seed=1, **SHORT), small, tmp_path, device="cpu")
    assert outcome(other)[0] != outcome(undisturbed)[0]


def test_deterministic_repeats_bit_for_bit_on_any_device(device, small, tmp_path):
    p = load_params(7, **SHORT)
    one, two = (train(p, small, tmp_path / i, device=device, deterministic=True) for i in "ab")
    assert outcome(one) == outcome(two)


TRAIN = """
import sys
from cifarlib.data import load_cifar10
from cifarlib.params import load_params
from cifarlib.train import train
train(load_params(sys.argv[2], train_images=256, epochs=3), load_cifar10().head(512, 100, 100), sys.argv[1], device="cpu",
      progress=lambda epochs, history: print(epochs, flush=True))
"""


def start(folder):
    command = [sys.executable, "-c", TRAIN, str(folder), "run7"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


class StopAt:
    """The stop button, pressed once so many epochs are done."""

    def __init__(self, epochs):
        self.epochs = epochs

    def __call__(self, epochs, history):
        if epochs >= self.epochs:
            raise KeyboardInterrupt


@pytest.mark.parametrize("run", [1, 2, 7, "fast"])
def test_stopped_says_what_is_saved_and_resumes(run, device, small, tmp_path, monkeypatch):
    monkeypatch.setattr(Lookahead, "IMAGES", 128)  # so that it acts in such a short run
    monkeypatch.setattr("cifarlib.train.CHECKPOINT_SECONDS", {device: 0})
    p, how = (
        dataclasses.replace(load_params(run), batch_size=128, **SHORT),
        {"device": device, "deterministic": True},
    )
    with pytest.raises(
        Interrupted, match=r"Epochs 1 to 2 of 3 are saved in .*seed0-epochs3-images256"
    ):
        train(p, small, tmp_path / "stopped", progress=StopAt(2.5), **how)
    stopped = train(p, small, tmp_path / "stopped", **how)
    assert outcome(stopped) == outcome(train(p, small, tmp_path / "whole", **how))


def test_uncaptured_it_comes_to_the_same(small, device, tmp_path):
    how = {"device": device, "deterministic": True}
    folders = [
        train(load_params(7, **SHORT), small, tmp_path / str(c), capture=c, **how)
        for c in (True, False)
    ]
    losses = [[row["train_loss"] for row in records.read_history(folder)] for folder in folders]
    assert losses[0] == pytest.approx(losses[1], rel=0.05 if device == "cuda" else 0)


def test_stopped_before_the_first_checkpoint_says_so(small, tmp_path):
    with pytest.raises(Interrupted, match="nothing was saved"):
        train(load_params(7, **SHORT), small, tmp_path, device="cpu", progress=StopAt(0.5))
    with pytest.raises(
        Interrupted, match=r"Epochs 1 to 2 of 3 .*: run it again with resume = True to go on"
    ):
        train(
            load_params(7, **SHORT),
            small,
            tmp_path,
            device="cpu",
            progress=StopAt(2.5),
            resume=False,
        )


class CountsItself(torch.optim.Optimizer):
    """Keeps a counter in its group, as schedule-free optimizers do, and a Python number in its
    state, as most optimizers outside PyTorch do."""

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr, "steps": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                state = self.state[p] or {"own_steps": 0, "mean": torch.zeros_like(p)}
                state["own_steps"] += 1
                state["mean"].lerp_(p.grad, 1 / min(group["steps"], 20))
                p.add_(state["mean"], alpha=-group["lr"] / state["own_steps"])
                self.state[p] = state


def test_an_optimizer_of_ones_own_goes_on_with_all_its_state(small, tmp_path, monkeypatch):
    def make(params, model):
        trained = [p for p in model.parameters() if p.requires_grad]
        return CountsItself([{"params": trained, "times_rate": 1.0}], params.learning_rate)

    monkeypatch.setattr("cifarlib.train.make_optimizer", make)
    p = load_params("run7-mean", **SHORT)
    with pytest.raises(Interrupted):
        train(p, small, tmp_path / "stopped", device="cpu", progress=StopAt(1.5))
    resumed = train(p, small, tmp_path / "stopped", device="cpu")
    assert outcome(resumed) == outcome(train(p, small, tmp_path / "whole", device="cpu"))


def test_the_estimate_is_measured(device):
    assert 0 < estimate_epoch_seconds(load_params(7), torch.device(device)) < 3600


def test_only_what_is_saved_is_promised(small, tmp_path, monkeypatch):
    import cifarlib.train as module

    p = load_params(7, **SHORT)
    with monkeypatch.context() as patched:
        # as on a GPU, whose epochs are short
        patched.setitem(module.CHECKPOINT_SECONDS, "cpu", 1000)
        with pytest.raises(Interrupted, match="nothing was saved"):
            train(p, small, tmp_path, device="cpu", progress=StopAt(2.5))
        seen = []
        train(p, small, tmp_path, device="cpu", progress=lambda epochs, _: seen.append(epochs))
    assert seen[0] == 0


def test_a_resumed_run_keeps_its_precision(unfinished, small, tmp_path, monkeypatch):
    import cifarlib.train as module

    # as if the machine were busy now
    monkeypatch.setattr(module, "pick_precision", lambda _: "bfloat16")
    p = load_params(7, train_images=128, epochs=3)
    assert records.read_record(train(p, small, tmp_path, device="cpu"))["precision"] == "float32"


def test_killed_before_the_record_only_the_record_is_made(
    undisturbed, small, tmp_path, monkeypatch
):
    p = load_params(7, **SHORT)
    with monkeypatch.context() as patched:
        patched.delattr(records, "finish")
        with pytest.raises(AttributeError):
            train(p, small, tmp_path, device="cpu")
    seen = []
    folder = train(
        p, small, tmp_path, device="cpu", progress=lambda epochs, history: seen.append(epochs)
    )
    assert seen == [3]
    assert outcome(folder) == outcome(undisturbed)


def test_a_finished_record_stays_until_the_new_one_is_complete(small, tmp_path):
    p = load_params(7, train_images=128, epochs=2)
    folder = train(p, small, tmp_path, device="cpu")
    before = (folder / "record.json").read_text()
    with pytest.raises(Interrupted):
        train(p, small, tmp_path, device="cpu", progress=StopAt(1))
    assert (folder / "record.json").read_text() == before
    records.read_record(folder)
    train(p, small, tmp_path, device="cpu")
    assert (folder / "record.json").read_text() != before


def test_stop_epoch_follows_the_whole_schedule_up_to_there(undisturbed, small, tmp_path):
    folder = train(load_params(7, stop_epoch=2, **SHORT), small, tmp_path, device="cpu")
    assert outcome(folder)[0] == outcome(undisturbed)[0][:2]
    assert records.read_record(folder)["epochs_trained"] == 2


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sum_loss_equals_mean_loss_at_128_times_the_rate(smoothing, small, tmp_path):
    sum_ = dataclasses.replace(load_params(7, **SHORT), label_smoothing=smoothing)
    mean = dataclasses.replace(
        sum_, loss_reduction="mean", learning_rate=128 * 0.08, weight_decay=0.02 / 128
    )
    one = outcome(train(sum_, small, tmp_path / "sum", device="cpu", precision="float32"))[0]
    two = outcome(train(mean, small, tmp_path / "mean", device="cpu", precision="float32"))[0]
    for a, b in zip(one, two, strict=True):
        for column in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            assert a[column] == pytest.approx(b[column], rel=1e-5), column
        assert a["last_batch_loss"] == pytest.approx(128 * b["last_batch_loss"], rel=1e-5)


def test_it_learns(small, device, tmp_path):
    folder = train(load_params(6, train_images=512, stop_epoch=8), small, tmp_path, device=device)
    assert records.read_history(folder)[-1]["train_accuracy"] > 0.35  # chance: 0.1


def test_one_step_is_the_textbooks_sgd(small, device):
    """Nesterov momentum and coupled weight decay, written out, against the fused optimizer."""
    p = load_params(7)
    x, y = torch.randn(128, 3, 32, 32, device=device), small.train.labels[:128].to(device)
    model = build_model(0, torch.randn(24, 3, 2, 2)).to(device)
    twin = build_model(0, torch.randn(24, 3, 2, 2)).to(device)
    twin.load_state_dict(model.state_dict())
    unused = Normalizer(torch.zeros(1), torch.ones(1))
    loss, _ = train_step(
        Training(p, model, make_optimizer(p, model), x, y, unused, torch.float32), x, y
    )
    expected = F.cross_entropy(twin(x), y, label_smoothing=0.2, reduction="sum")
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        if theirs.requires_grad:
            gradient = theirs.grad + 0.02 * theirs.detach()
            torch.testing.assert_close(
                ours, theirs - 0.08 * (gradient + 0.9 * gradient), rtol=1e-3, atol=1e-4
            )


def test_images_augmented_once_are_the_same_in_every_epoch(small, tmp_path, monkeypatch):
    import cifarlib.loop as module

    met = []
    step = module.train_step
    monkeypatch.setattr(
        module, "train_step", lambda training, x, y: met.append(x.clone()) or step(training, x, y)
    )
    for name in ("run7-preprocessed", "run7"):
        train(load_params(name, train_images=128, epochs=2), small, tmp_path, device="cpu")
    once, fresh = met[:2], met[2:]
    multiset = lambda x: sorted(x.flatten(1).double().sum(1).tolist())  # noqa: E731
    assert multiset(once[0]) == multiset(once[1])
    assert multiset(fresh[0]) != multiset(fresh[1])
    raw = small.train.images[:128]
    plain = make_normalizer(raw, "channel", channel_statistics(raw)).apply(raw)
    assert multiset(once[0]) != multiset(plain)


def test_a_diverged_loss_is_one_error_and_keeps_the_checkpoint(small, tmp_path):
    p = dataclasses.replace(
        load_params(7, **SHORT), learning_rate=1000.0, optimizer="adamw", weight_decay=900.0
    )
    with pytest.raises(
        Diverged, match=r"run7 is .* in epoch (\d).*learning_rate 1000.*weight_decay 900"
    ) as caught:
        train(p, small, tmp_path, device="cpu")
    epoch = int(str(caught.value).partition(" in epoch ")[2][0])
    assert len(list(tmp_path.glob("**/checkpoint.pt"))) == (epoch > 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resume", "false"),
        ("resume", 0),
        ("deterministic", "no"),
        ("capture", 1),
        ("precision", "half"),
    ],
)
def test_a_switch_is_true_or_false(name, value, small, tmp_path):
    with pytest.raises(InputError, match=f"{name} = {value!r}"):
        train(load_params(7, **SHORT), small, tmp_path, **{name: value})


def test_an_output_folder_that_is_no_path_is_named(small):
    with pytest.raises(InputError, match="output_folder = 2026: give a path"):
        train(load_params(7, **SHORT), small, 2026)


def test_an_output_folder_that_cannot_be_written_is_named(small):
    with pytest.raises(InputError, match="output_folder = '/proc/no'"):
        train(load_params(7, **SHORT), small, "/proc/no")


def test_a_full_disk_is_named_before_training(small, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5_000_000}))
    with pytest.raises(InputError, match="5 MB free"):
        train(load_params(7, **SHORT), small, tmp_path)


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
            train(p, small, tmp_path, device="cpu")
    assert outcome(train(p, small, tmp_path, device="cpu")) == outcome(undisturbed)


@pytest.fixture
def unfinished(small, tmp_path):
    """The folder of a run stopped in its second epoch."""
    p = load_params(7, train_images=128, epochs=3)
    with pytest.raises(Interrupted):
        train(p, small, tmp_path, device="cpu", precision="float32", progress=StopAt(1.5))
    return tmp_path / p.folder


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
        train(p, small, tmp_path, device="cpu")
    train(p, small, tmp_path, device="cpu", resume=False)
    assert len(records.read_history(unfinished)) == 3


def test_a_checkpoint_of_other_parameters_is_refused(unfinished, small, tmp_path):
    p = dataclasses.replace(load_params(7, train_images=128, epochs=3), momentum=0.8)
    unfinished.rename(tmp_path / p.folder)  # as if the params file had been edited since
    with pytest.raises(InputError, match=r"other parameters .momentum 0.9, now 0.8"):
        train(p, small, tmp_path, device="cpu")


def test_two_processes_do_not_write_to_one_folder(small, tmp_path):
    first = start(tmp_path)
    while not list(tmp_path.glob("**/.lock")) or not first.stdout.readline():
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # or it would be done before the other gives up
    try:
        with pytest.raises(InputError, match="another process is training in"):
            train(load_params(7, **SHORT), small, tmp_path)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()


def test_bfloat16_trains_like_float32(small, tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        p = load_params("run7-mean", train_images=256, epochs=2)
        folder = train(p, small, tmp_path / precision, device="cpu", precision=precision)
        assert json.loads((folder / "record.json").read_text())["precision"] == precision
        losses[precision] = records.read_history(folder)[-1]["train_loss"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


@pytest.mark.parametrize("run", [name for name in run_names() if name.startswith("fast")])
def test_every_fast_arm_trains_and_is_evaluated_with_and_without_views(
    run, small, tmp_path, monkeypatch
):
    monkeypatch.setattr("cifarlib.train.TRAIN_IMAGES", 256)  # as if these were all
    p = dataclasses.replace(load_params(run), batch_size=128, train_images=256, epochs=1)
    record = records.read_record(train(p, small, tmp_path, device="cpu"))
    assert np.isfinite(record["train_loss"])
    for part in ("validation", "test"):
        assert 0 <= record[f"{part}_accuracy_views"] <= 1


def test_a_run_on_part_of_the_data_is_not_evaluated_with_views(undisturbed):
    record = records.read_record(undisturbed)
    assert (record["validation_accuracy_views"], record["test_accuracy_views"]) == (None, None)


def test_all_images_may_train_and_then_nothing_is_validated(small, tmp_path):
    p = dataclasses.replace(load_params("fast94"), batch_size=128, epochs=2)
    # 512 + 100 images, as the whole file has 40,000 + 10,000
    folder = train(p, small, tmp_path, device="cpu")
    record, history = records.read_record(folder), records.read_history(folder)
    assert (record["train_images"], record["validation_images"], record["validation_accuracy"]) == (
        50_000,
        0,
        None,
    )
    assert record["test_accuracy"] >= 0
    assert all(np.isnan(row["validation_accuracy"]) for row in history)
    assert len(records.read_predictions(folder)["validation"]) == 0
