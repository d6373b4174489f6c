import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from training import metrics, watching


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,dice,loss,val_dice\n0,0.1,0.9,0.2\n1,0.3,0.8,0.4\n2,0.5,0.7,0.")
    return path


def test_epochs_after_the_backup_and_a_half_written_row_are_written_again(history):
    watching.keep_epochs(history, 1)
    assert history.read_text() == "epoch,dice,loss,val_dice\n0,0.1,0.9,0.2\n"
    watching.keep_epochs(history, 0)
    assert history.read_text() == "epoch,dice,loss,val_dice\n"
    watching.keep_epochs(history.with_name("none.csv"), 3)
    assert not history.with_name("none.csv").exists()


def test_curves_are_drawn_with_and_without_validation(history, tmp_path):
    watching.keep_epochs(history, 2)
    watching.draw_curves(history, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    history.write_text("epoch,dice,loss,val_dice\n0,0.1,0.9,NA\n")
    watching.draw_curves(history, tmp_path / "again.png")
    assert (tmp_path / "again.png").exists()


def test_tensorboard_finds_precision_over_recall_and_the_settings(tmp_path):
    counts = metrics.ThresholdCounts(("lung",))
    counts.update_state(tf.ones((1, 2, 2, 1)), tf.fill((1, 2, 2, 1), 0.75))
    watching.PrecisionRecall(tmp_path, counts).on_epoch_end(3)
    watching.HyperParameters(tmp_path, {"seed": 7, "epochs": None}, "run").on_train_begin()
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    (curve,) = events.Tensors("pr/lung")
    assert curve.step == 3
    np.testing.assert_allclose(tf.make_ndarray(curve.tensor_proto)[:, 75], [4, 0, 0, 0, 1, 1])
    assert set(events.PluginTagToContent("pr_curves")) == {"pr/lung"}
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")
