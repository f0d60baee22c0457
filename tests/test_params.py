import dataclasses

import pytest

from cifarlib import InputError, params
from cifarlib.params import load_params, run_names
from cifarlib.train import train

TABLE1 = {  # the paper's Table 1, column by column, as decoded
    1: (1024, False, "constant", "adamw", "length", 0.0, "mean", 0.001),
    2: (1024, False, "constant", "sgd", "length", 0.0, "mean", 0.08),
    3: (128, False, "constant", "sgd", "length", 0.0, "mean", 0.08),
    4: (128, True, "constant", "sgd", "length", 0.0, "mean", 0.08),
    5: (128, True, "reflect", "sgd-nesterov", "length", 0.0, "mean", 0.08),
    6: (128, True, "reflect", "sgd-nesterov", "channel", 0.0, "mean", 0.08),
    7: (128, True, "reflect", "sgd-nesterov", "channel", 0.2, "sum", 0.08),
}


@pytest.mark.parametrize("run", TABLE1)
def test_runs_are_the_rows_of_table_1(run):
    p = load_params(run)
    assert TABLE1[run] == (
        p.batch_size,
        p.whitening,
        p.padding,
        p.optimizer,
        p.normalization,
        p.label_smoothing,
        p.loss_reduction,
        p.learning_rate,
    )
    assert (p.epochs, p.weight_decay, p.momentum, p.augmentation) == (200, 0.02, 0.9, "per_epoch")


@pytest.mark.parametrize(
    ("variant", "base", "differs"),
    [
        ("run7-mean", 7, {"loss_reduction"}),
        ("run6-sum", 6, {"loss_reduction"}),
        ("run7-preprocessed", 7, {"augmentation"}),
        ("run6-image-channel", 6, {"normalization"}),
        ("run4-reflect", 4, {"padding"}),
        ("run4-nesterov", 4, {"optimizer"}),
    ],
)
def test_a_variant_differs_from_its_run_in_one_thing(variant, base, differs):
    one, other = load_params(variant).settings(), load_params(base).settings()
    assert {k for k in one if one[k] != other[k]} == differs | {"run"}


def test_every_params_file_says_what_it_asks():
    for name in run_names():
        assert load_params(name).question.endswith("?")


def test_run_may_be_number_text_or_name():
    assert load_params(7) == load_params("7") == load_params("run7")


@pytest.mark.parametrize(
    ("run", "hint"),
    [
        (8, "did you mean 'run"),
        ("fsat", "did you mean 'fast'"),
        ("", "there are .*run1, .*run7-mean"),
        ("../run7", "did you mean 'run7'"),
        ("published/table1", "there are"),
    ],
)
def test_an_unknown_run_is_refused_with_a_hint(run, hint):
    with pytest.raises(InputError, match=f"run = .*{hint}"):
        load_params(run)


REFUSED = {
    "epochs": (0, -1, "ten", 1.5, True),
    "seed": (-1, 2**32, "0"),
    "stop_epoch": (0, 201),
    "train_images": (50_001, 100),
    "learning_rate": (-0.1, float("nan"), "1e-3"),
    "label_smoothing": (1.5,),
    "padding": ("mirror",),
    "normalization": (3,),
    "whitening": ("yes", 1),
    "cutout": (32,),
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values]
)
def test_a_value_that_cannot_be_is_named(key, value):
    with pytest.raises(InputError, match=key) as caught:
        load_params(7, **{key: value})
    assert str(value) in str(caught.value) or repr(value) in str(caught.value)


def test_a_mistyped_override_suggests_the_right_one():
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        load_params(7, epoch=5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("batchsize: 64", "did you mean 'batch_size'"),
        ("learning_rate: -1.0", "learning_rate = -1.0"),
        ("learning_rate: 1e-3", "write 0.001"),
        ("label_smoothing: 1.5", "label_smoothing = 1.5"),
        ("- 1", "name: value"),
        ("a: [", "not YAML"),
        ("crop: 2\nbatch_size: 64\ncrop: 3", "'crop' stands twice, in lines 1 and 3"),
        ("seed: 3", "a file holds no seed"),
        ("# für alle", "not saved as UTF-8"),
    ],
)
def test_a_bad_params_file_is_named_with_its_fault(tmp_path, monkeypatch, text, says):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "own.yaml").write_text(text, encoding="latin-1")
    monkeypatch.setattr(params, "project_root", lambda: tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        load_params("own")
    assert "own.yaml" in str(caught.value)


def test_an_own_experiment_needs_only_a_file(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "own.yaml").write_text(
        "# Does it?\nbatch_size: 64\nepochs: 30\nlearning_rate: 1"
    )
    monkeypatch.setattr(params, "project_root", lambda: tmp_path)
    p = load_params("own", seed=3)
    assert (p.question, p.batch_size, p.learning_rate) == ("Does it?", 64, 1.0)
    assert p.folder == "own/seed3"
    (tmp_path / "params" / "8.yaml").write_text("batch_size: 0100")
    assert load_params(8).batch_size == 100
    (tmp_path / "params" / "my exp.yaml").write_text("")
    with pytest.raises(InputError, match="without blanks"):
        load_params("my exp")


@pytest.mark.parametrize(
    "name", ["optimizer", "padding", "schedule", "loss_reduction", "augmentation", "flip"]
)
def test_a_choice_that_the_code_does_not_know_trains_nothing(name, small, tmp_path, monkeypatch):
    """As if a word had been added to a parameter's choices and nowhere else."""
    p = load_params("fast", train_images=256, epochs=1)
    object.__setattr__(p, name, "new")
    with pytest.raises((InputError, ValueError, KeyError), match="new"):
        train(p, small, tmp_path, device="cpu")


def test_the_folder_names_every_override():
    assert load_params(7).folder == "run7/seed0"
    assert load_params(7, epochs=200, train_images=40_000, stop_epoch=None).folder == "run7/seed0"
    assert load_params(7, seed=2, epochs=10).folder == "run7/seed2-epochs10"
    assert load_params("run7-mean", stop_epoch=95).folder == "run7-mean/seed0-stop95"
    assert load_params(7, batch_size=256).folder == "run7/seed0-batch_size256"


def test_what_does_not_go_together_is_refused():
    assert load_params(7, optimizer="adamw").learning_rate == 0.001
    with pytest.raises(InputError, match=r"momentum = 0\.0: Nesterov"):
        load_params(7, momentum=0)
    with pytest.raises(InputError, match=r"cutout = 8: .*augmentation = none"):
        load_params(7, cutout=8, augmentation="none")


def test_the_rate_falls_tenfold_every_30_epochs():
    p = load_params(7)
    steps = p.steps_per_epoch
    assert steps == 312  # 40,000 / 128, the incomplete batch dropped
    for epoch, rate in ((0, 0.08), (29, 0.08), (30, 0.008), (60, 0.0008), (180, 0.08 / 10**6)):
        assert p.learning_rate_at(epoch * steps) == pytest.approx(rate, rel=1e-12)
    assert p.learning_rate_at(30 * steps - 1) == 0.08


def test_a_squeezed_schedule_keeps_its_shape():
    full, short = load_params(7), load_params(7, epochs=10)
    steps = 10 * short.steps_per_epoch
    rates = [short.learning_rate_at(step) for step in range(steps)]
    assert rates == [full.learning_rate_at(20 * step) for step in range(steps)]
    assert len(set(rates)) == 7


def test_the_folder_is_known_without_reading_a_file(monkeypatch):
    p = load_params(7, seed=2, epochs=10)
    monkeypatch.setattr(params, "project_root", lambda: 1 / 0)
    assert dataclasses.replace(p, momentum=0.8).folder == "run7/seed2-epochs10-momentum0.8"


def test_changes_since_a_record_are_named():
    p = load_params(7)
    assert p.changes_since(p.settings()) == []
    assert p.changes_since(p.settings() | {"momentum": 0.8}) == ["momentum 0.8, now 0.9"]
    assert p.changes_since(p.settings() | {"training_version": 0}) == [
        f"training_version 0, now {params.TRAINING_VERSION}"
    ]


def test_a_parameter_that_a_record_does_not_know_had_its_default():
    older = load_params(7).settings()
    del older["augmentation"], older["cutout"]
    assert load_params(7).changes_since(older) == []
    older["run"] = "run7-preprocessed"
    changes = load_params("run7-preprocessed").changes_since(older)
    assert changes == ["augmentation 'per_epoch', now 'once'"]


def test_a_parameter_that_only_the_record_knows_makes_it_stale():
    p = load_params(7)
    assert p.changes_since(p.settings() | {"mixup": 0.2}) == ["mixup 0.2, unknown here"]


def test_a_record_before_versions_is_of_the_first(monkeypatch):
    older = {k: v for k, v in load_params(7).settings().items() if k != "training_version"}
    monkeypatch.setattr(params, "TRAINING_VERSION", 1)
    assert load_params(7).changes_since(older) == []
    monkeypatch.setattr(params, "TRAINING_VERSION", 2)
    assert load_params(7).changes_since(older) == ["training_version 1, now 2"]


def test_a_triangle_rises_over_23_per_cent_of_the_steps_and_falls():
    p = load_params("fast", epochs=100, learning_rate=1.0)
    steps = 100 * p.steps_per_epoch
    corners = {0: 0.2, 0.115: 0.6, 0.23: 1.0, 0.615: 0.535, 1: 0.07}
    for share, rate in corners.items():
        assert p.learning_rate_at(round(share * steps)) == pytest.approx(rate, abs=1e-4)


FAST_ARMS = {
    "fast-trained-first-layer": {"whitening"},
    "fast-constant": {"padding"},
    "fast-sgd": {"optimizer"},
    "fast-length": {"normalization"},
    "fast-image-channel": {"normalization"},
    "fast-batch1024": {"batch_size", "weight_decay"},
    # the rate goes with the loss
    "fast-no-smoothing": {"label_smoothing", "learning_rate", "weight_decay"},
    "fast-preprocessed": {"augmentation"},
    "fast-no-dirac": {"dirac"},
    "fast-adamw": {"optimizer", "learning_rate", "weight_decay"},
}


def test_an_arm_differs_from_the_fast_recipe_in_one_thing():
    assert {name for name in run_names() if name.startswith("fast-")} == set(FAST_ARMS)
    longer, base = load_params("fast94").settings(), load_params("fast").settings()
    assert {k for k in longer if longer[k] != base[k]} == {"run", "epochs", "train_images"}
    for name, differs in FAST_ARMS.items():
        ours, base = load_params(name).settings(), load_params("fast").settings()
        assert {k for k in ours if ours[k] != base[k]} == differs | {"run"}, name


def test_the_fast_recipes_rate_and_decay_follow_its_authors_formulas():
    """Rate 11.5 and decay 0.0153 per 1,024 images and (1 + 1 / (1 - momentum)), the decay
    independent of the rate."""
    for run, rate in (("fast", 11.5), ("fast-batch1024", 11.5), ("fast-no-smoothing", 5)):
        p = load_params(run)
        k = 1024 * (1 + 1 / (1 - p.momentum))
        assert p.learning_rate == pytest.approx(rate / k, rel=1e-3)
        assert p.weight_decay == pytest.approx(
            0.0153 * p.batch_size / k / p.learning_rate, rel=1e-3
        )
