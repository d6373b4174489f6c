import dataclasses
import pathlib

import pytest

from data_pipeline import augment, cases, phantom
from data_pipeline.errors import InputError
from training import config, plan


def test_every_setting_is_a_flag_with_a_default():
    assert config.from_flags([]) == config.TrainConfig()


def test_flags_become_settings_of_their_type():
    parsed = config.from_flags(
        ["--model", "cnn", "--minutes", "0.5", "--seed", "7", "--use-all", "--data", "x.csv"]
    )
    assert parsed == dataclasses.replace(
        config.TrainConfig(),
        model="cnn",
        minutes=0.5,
        seed=7,
        use_all=True,
        data=pathlib.Path("x.csv"),
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--epochs", "3", "--minutes", "2"], "--epochs or --minutes, not both"),
        (["--labels", "liver"], "unknown label liver; known: lung, infection"),
        (["--epochs", "0"], "--epochs must be above 0; got 0"),
        (["--batch-size", "-1"], "--batch-size must not be negative; got -1"),
        (["--folds", "1"], "--folds needs at least 2"),
        (["--folds", "5", "--use-all"], "choose one"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--window", "400,-1000"], "--window is LOW,HIGH"),
        (["--window", "wide"], "--window is LOW,HIGH"),
        (["--name", ".."], "--name is one folder's name"),
        (["--name", "a/b"], "--name is one folder's name"),
        (["--resume"], "--resume needs the --name"),
        (["--mlflow", "https://me:secret@host"], "into MLFLOW_TRACKING_USERNAME"),
        (["--mlflow", "postgresql://me:secret@host/db"], "mlflow server --backend-store-uri"),
        (["--mlflow", "http://[::1:5000"], r"--mlflow is no URI \(Invalid IPv6 URL\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(flags, told):
    with pytest.raises(InputError, match=told):
        config.from_flags(flags)


def test_a_window_may_begin_below_zero():
    given = config.from_flags(["--modality", "CT", "--window", "-1000,400", "--seed", "3"])
    assert (given.window_limits(), given.seed) == ((-1000.0, 400.0), 3)


def test_a_misspelt_flag_is_an_error():
    with pytest.raises(SystemExit) as left:
        config.from_flags(["--epoch", "3"])
    assert left.value.code == 2


@pytest.fixture
def settings(tmp_path):
    data = phantom.write_manifest(tmp_path / "data", count=12)
    return config.TrainConfig(data=data, runs=tmp_path / "runs", name="r", size=32)


def test_the_plan_keeps_cases_with_any_of_the_labels(settings):
    (planned,) = plan.make(dataclasses.replace(settings, labels="infection"))
    assert len(planned.cases) == 8
    assert planned.spec.labels == ("infection",)
    assert planned.policy == augment.XRAY
    assert planned.directory == settings.runs / "r"


def test_the_split_is_the_same_for_the_same_seed_and_covers_every_case(settings):
    first, again, other = (
        plan.make(dataclasses.replace(settings, seed=seed))[0].splits for seed in (1, 1, 2)
    )
    assert first == again != other
    assert set(first.values()) == {"train", "validation", "test"}


def test_use_all_trains_on_every_case(settings):
    (planned,) = plan.make(dataclasses.replace(settings, use_all=True))
    assert set(planned.splits.values()) == {"train"}


def test_folds_test_every_case_exactly_once(settings):
    plans = plan.make(dataclasses.replace(settings, folds=3))
    tested = [case.id for planned in plans for case in planned.part("test")]
    assert [planned.directory.name for planned in plans] == ["fold0", "fold1", "fold2"]
    assert sorted(tested) == sorted(case.id for case in plans[0].cases)


def test_data_without_the_label_is_refused(settings):
    with pytest.raises(InputError, match="none of 12 cases is CT with lung annotated"):
        plan.make(dataclasses.replace(settings, modality="CT"))


def test_ct_of_mixed_intensities_is_refused_and_units_choose(tmp_path):
    settings = config.TrainConfig(modality="CT", labels="lung,infection", runs=tmp_path)
    assert settings.data == cases.SAMPLE
    with pytest.raises(InputError, match=r"mix intensities \(1 in HU, 50 in stored\).*--units"):
        plan.make(settings)
    (planned,) = plan.make(dataclasses.replace(settings, labels="infection", units="stored"))
    assert (planned.spec.units, planned.spec.window, len(planned.cases)) == ("stored", None, 50)


def test_copies_of_a_slice_whose_patients_are_unknown_stay_in_one_fold():
    # The sample holds one MedSeg slice twice, with different outlines.
    settings = config.TrainConfig(modality="CT", labels="infection", folds=5, name="x")
    for planned in plan.make(settings):
        assert planned.splits["medseg-10"] == planned.splits["medseg-43"]


def test_without_a_budget_a_training_is_4800_steps_long_or_ten_passes():
    plain = config.from_flags([])
    assert plain.epochs_of(50) == 96
    assert plain.epochs_of(188) == 26  # 25.5
    assert plain.epochs_of(3000) == 10
    assert config.from_flags(["--epochs", "3"]).epochs_of(3000) == 3
    assert plain.budget() == "4,800 steps or 10 epochs, whichever is more"
