"""What TensorBoard reads of a training."""

import pytest
import tensorflow as tf
from rich import console as rich_console
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from training import config, fit, plan

pytestmark = pytest.mark.usefixtures("tiny_training")


def train(planned):
    fit.train(planned, rich_console.Console(quiet=True))
    return planned.directory / "logs"


def events(folder):
    return event_accumulator.EventAccumulator(str(folder)).Reload()


def settings(logs):
    """The run's name among others and its settings, as the HParams page has them."""
    told = plugin_data_pb2.HParamsPluginData.FromString(
        events(logs).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    ).session_start_info
    return told.group_name, told.hparams


def test_it_finds_the_dice_of_each_label_overlays_and_settings(make_plan):
    logs = train(make_plan("watched", labels="lung,infection", seed=7))
    for part, name in (("train", "epoch"), ("validation", "epoch")):
        found = events(logs / part)
        for label in ("lung", "infection"):
            values = [
                tf.make_ndarray(e.tensor_proto) for e in found.Tensors(f"{name}_dice_{label}")
            ]
            assert len(values) == 2
            assert all(0 <= value <= 1 for value in values)
    drawn = events(logs / "overlays").Tensors("truth white, prediction coloured")
    assert [one.step for one in drawn] == [0, 1]
    # Width and height, then a PNG for each of the two validation cases.
    width, height, *pictures = tf.make_ndarray(drawn[-1].tensor_proto)
    assert (width, height, len(pictures)) == (b"32", b"32", 2)
    assert all(tf.io.decode_png(png).shape == (32, 32, 3) for png in pictures)
    name, told = settings(logs)
    assert name == "watched"
    assert told["seed"].number_value == 7
    assert told["labels"].string_value == "lung,infection"


def test_it_is_written_one_file_each_of_overlays_and_of_curves(make_plan):
    logs = train(make_plan("watched"))
    assert len(list((logs / "overlays").glob("*tfevents*"))) == 1
    assert len(list((logs / "validation").glob("*tfevents*"))) == 2  # the other is Keras' own


def test_folds_of_two_cross_validations_are_runs_of_their_own(phantoms, tmp_path):
    names = []
    for name in ("a", "b"):
        asked = config.TrainConfig(
            data=phantoms, runs=tmp_path / "runs", cache=tmp_path / "cache", name=name, folds=2,
            size=32, batch_size=4, precision="float32", epochs=1,
        )  # fmt: skip
        names.append(settings(train(plan.make(asked)[0]))[0])
    assert names == ["a/fold0", "b/fold0"]


@pytest.mark.slow
def test_a_profile_is_written_where_the_profile_tab_looks_for_it(make_plan):
    logs = train(make_plan("profiled", profile=True, epochs=4))
    assert list(logs.rglob("plugins/profile/*/*.xplane.pb"))
