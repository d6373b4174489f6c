"""One network from cases with lungs annotated here and infection there, on real images."""

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline import batches, cases, frames
from data_pipeline.cases import SAMPLE
from data_pipeline.spec import InputSpec
from models import unet
from training import losses, metrics

SPEC = InputSpec("XR", ("lung", "infection"), (64, 64))


@pytest.fixture(scope="module")
def both_kinds(tmp_path_factory):
    """Two X-rays with both labels and two with lungs only: images and targets of each kind."""
    everything = cases.load(SAMPLE)
    cache = tmp_path_factory.mktemp("cache")
    found = []
    for dataset in ("gb_infection", "kermany_v7"):
        chosen = [case for case in everything if case.dataset == dataset][:2]
        store = frames.open_store(chosen, SPEC, cache)
        found.append(next(iter(batches.whole(store, SPEC, batch_size=2))))
    return found


def test_targets_say_which_label_nobody_annotated(both_kinds):
    (_, annotated), (_, lungs_only) = both_kinds
    assert np.min(annotated) >= 0
    assert np.max(annotated[..., 1]) == 1  # there is infection
    assert np.min(lungs_only[..., 0]) >= 0
    assert (np.asarray(lungs_only[..., 1]) == batches.NOT_ANNOTATED).all()


def test_a_mixed_batch_teaches_each_label_from_the_cases_that_have_it(both_kinds):
    (images, targets), (other_images, other_targets) = both_kinds
    network = unet.build(SPEC, (4, 6))

    def gradient(images, targets):
        """By how much each probability changes the loss: (n, rows, cols, labels)."""
        answers = network(images, training=False)
        with tf.GradientTape() as tape:
            tape.watch(answers)
            loss = losses.make("dice_ce")(targets, answers)
        return np.asarray(tape.gradient(loss, answers))

    both = gradient(images, targets)
    lungs = gradient(other_images, other_targets)
    mixed = gradient(
        tf.concat([images, other_images], axis=0), tf.concat([targets, other_targets], axis=0)
    )
    assert (both != 0).all()
    assert (lungs[..., 0] != 0).all()
    assert (lungs[..., 1] == 0).all()
    # The mean of a batch of four gives each case half the weight that it has in one of two.
    np.testing.assert_allclose(mixed, np.concatenate([both, lungs]) / 2, rtol=1e-5)


def test_dice_of_a_label_is_over_the_cases_that_have_it(both_kinds):
    (_, targets), (_, lungs_only) = both_kinds
    truth = tf.concat([targets, lungs_only], axis=0)
    infection = metrics.CaseDice(1, "dice_infection")
    infection.update_state(truth, tf.ones_like(truth))
    of_annotated = metrics.CaseDice(1, "dice_infection")
    of_annotated.update_state(targets, tf.ones_like(targets))
    assert float(infection.result()) == float(of_annotated.result()) > 0
