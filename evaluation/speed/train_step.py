"""A training step of the U-Net as if it were a loader, to see what share loading has."""

from collections.abc import Iterator

from evaluation.speed.job import BATCH, LABEL, SIDE, Job


def steps(job: Job, *, warm: bool) -> Iterator[object]:
    """Trains on one batch again and again; cross-entropy and AdamW, float32."""
    import keras
    import numpy as np

    from data_pipeline.spec import InputSpec
    from models import zoo

    del job, warm
    keras.utils.set_random_seed(0)
    network = zoo.NETWORKS["unet"](InputSpec("XR", (LABEL,), (SIDE, SIDE)))
    network.compile(keras.optimizers.AdamW(), "binary_crossentropy", jit_compile=False)
    images = np.random.default_rng(0).random((BATCH, SIDE, SIDE, 1), np.float32)
    targets = (images > 0.5).astype(np.float32)
    while True:
        yield network.train_on_batch(images, targets)
