import pytest

from cifarlib import InputError, params
from cifarlib.params import load_params, run_names
from cifarlib.report.claims import arms_of

COLUMNS = "batch_size whitening padding optimizer normalization label_smoothing loss_reduction"
TABLE1 = {  # the paper's, as decoded
    1: (1024, False, "constant", "adamw", "length", 0.0, "mean"),
    2: (1024, False, "constant", "sgd", "length", 0.0, "mean"),
    3: (128, False, "constant", "sgd", "length", 0.0, "mean"),
    4: (128, True, "constant", "sgd", "length", 0.0, "mean"),
    5: (128, True, "reflect", "sgd-nesterov", "length", 0.0, "mean"),
    6: (128, True, "reflect", "sgd-nesterov", "channel", 0.0, "mean"),
    7: (128, True, "reflect", "sgd-nesterov", "channel", 0.2, "sum"),
}
DIFFERENCES = {
    "run7-mean": (7, {"loss_reduction"}),
    "run6-sum": (6, {"loss_reduction"}),
    "run7-preprocessed": (7, {"augmentation"}),
    "run6-image-channel": (6, {"normalization"}),
    "run4-reflect": (4, {"padding"}),
    "run4-nesterov": (4, {"optimizer"}),
    "fast-trained-first-layer": ("fast", {"whitening"}),
    "fast-constant": ("fast", {"padding"}),
    "fast-sgd": ("fast", {"optimizer"}),
    "fast-length": ("fast", {"normalization"}),
    "fast-image-channel": ("fast", {"normalization"}),
    "fast-batch1024": ("fast", {"batch_size", "weight_decay"}),
    # the rate goes with the loss
    "fast-no-smoothing": ("fast", {"label_smoothing", "learning_rate", "weight_decay"}),
    "fast-preprocessed": ("fast", {"augmentation"}),
    "fast-no-dirac": ("fast", {"dirac"}),
    "fast-adamw": ("fast", {"optimizer", "learning_rate", "weight_decay"}),
    "fast94": ("fast", {"epochs", "train_images"}),
}


@pytest.mark.parametrize("run", TABLE1)
def test_runs_are_the_rows_of_table_1(run):
    p = load_params(run)
    assert TABLE1[run] == tuple(getattr(p, name) for name in COLUMNS.split())
    assert p.learning_rate == (0.001 if run == 1 else 0.08)
    assert (p.epochs, p.weight_decay, p.momentum, p.augmentation) == (200, 0.02, 0.9, "per_epoch")


def test_a_variant_differs_from_its_run_in_one_thing():
    compared = (*arms_of("fast"), *arms_of("paper"))  # not a file of one's own
    assert {name for name in compared if "-" in name} <= set(DIFFERENCES)
    for variant, (run, differs) in DIFFERENCES.items():
        ours, base = load_params(variant).settings(), load_params(run).settings()
        assert {k for k in ours if ours[k] != base[k]} == differs | {"run"}, variant


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty params/, which takes the place of the project's."""
    (tmp_path / "params").mkdir()
    monkeypatch.setattr(params, "project_root", lambda: tmp_path)
    return tmp_path / "params"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("batchsize: 64", "did you mean 'batch_size'"),
        ("learning_rate: -1.0", "learning_rate = -1.0"),
        ("learning_rate: 1e-3", "write 0.001"),
        ("base: fsat", "there is no params/fsat.yaml"),
        ("base: own", "base: own is based on own"),
        ("- 1", "name: value"),
        ("a: [", "not YAML"),
        ("crop: 2\nbatch_size: 64\n'crop' : 3", "'crop' stands twice"),
        ("seed: 3", "a file holds no seed"),
        ("# für alle", "not saved as UTF-8"),
    ],
)
def test_a_bad_params_file_is_named_with_its_fault(folder, text, says):
    (folder / "own.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=says) as caught:
        load_params("own")
    assert "own.yaml" in str(caught.value)


def test_an_own_experiment_needs_only_a_file(folder):
    (folder / "own.yaml").write_text("# Does it?\nbatch_size: 64\nepochs: 30\nlearning_rate: 1")
    p = load_params("own", seed=3)
    assert (p.question, p.batch_size, p.learning_rate) == ("Does it?", 64, 1.0)
    assert p.folder == "own/seed3"
    (folder / "8.yaml").write_text("base: own\nbatch_size: 100")
    (folder / "9.yaml").write_text("base: 8\nmomentum: 0.5")  # of a base that has one itself
    p = load_params(9)
    assert (p.momentum, p.batch_size, p.epochs) == (0.5, 100, 30)
    (folder / "my exp.yaml").write_text("")
    with pytest.raises(InputError, match="without blanks"):
        load_params("my exp")


def test_the_folder_names_every_override():
    assert load_params(7, epochs=200, train_images=40_000, stop_epoch=None).folder == "run7/seed0"
    assert load_params(7, seed=2, epochs=10).folder == "run7/seed2-epochs10"
    assert load_params("run7-mean", stop_epoch=95).folder == "run7-mean/seed0-stop95"
    assert load_params(7, batch_size=256).folder == "run7/seed0-batch_size256"


def test_what_does_not_go_together_is_refused():
    assert load_params(7, optimizer="adamw").learning_rate == 0.001
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        load_params(7, epoch=5)
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


@pytest.mark.parametrize(
    ("then", "changes"),
    [
        ({}, []),
        ({"momentum": 0.8}, ["momentum 0.8, now 0.9"]),
        ({"training_version": 1}, ["training_version 1, now 2"]),
        ({"training_version": None}, ["training_version 1, now 2"]),  # older than versions
        ({"cutout": None}, []),  # older than the parameter, which had its default
        ({"augmentation": None}, ["augmentation 'per_epoch', now 'once'"]),
        ({"mixup": 0.2}, ["mixup 0.2, unknown here"]),
    ],
)
def test_changes_since_a_record_are_named(then, changes, monkeypatch):
    monkeypatch.setattr(params, "TRAINING_VERSION", 2)
    p = load_params("run7-preprocessed")
    recorded = {k: v for k, v in (p.settings() | then).items() if then.get(k, v) is not None}
    assert p.changes_since(recorded) == changes


def test_a_triangle_rises_over_23_per_cent_of_the_steps_and_falls():
    p = load_params("fast", epochs=100, learning_rate=1.0)
    steps = 100 * p.steps_per_epoch
    corners = {0: 0.2, 0.115: 0.6, 0.23: 1.0, 0.615: 0.535, 1: 0.07}
    for share, rate in corners.items():
        assert p.learning_rate_at(round(share * steps)) == pytest.approx(rate, abs=1e-4)


def test_the_fast_recipes_rate_and_decay_follow_its_authors_formulas():
    """Rate 11.5 and decay 0.0153 per 1,024 images and (1 + 1 / (1 - momentum)), the decay
    independent of the rate."""
    for run, rate in (("fast", 11.5), ("fast-batch1024", 11.5), ("fast-no-smoothing", 5)):
        p = load_params(run)
        k = 1024 * (1 + 1 / (1 - p.momentum))
        assert p.learning_rate == pytest.approx(rate / k, rel=1e-3)
        decay = 0.0153 * p.batch_size / k
        assert p.weight_decay * p.learning_rate == pytest.approx(decay, rel=1e-3)
