import numpy as np
import tensorflow as tf

from serving.server import servable


def test_a_pad_before_a_3d_convolution_is_not_forgotten(tmp_path):
    """With oneDNN, TensorFlow forgets it in a graph, and only there."""
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 1, 2)), tf.float32)
    margins = [(0, 0), (2, 2), (2, 2), (2, 2), (0, 0)]

    class Padded(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 4, 4, 4, 1), tf.float32, "x")])
        def convolve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": tf.nn.conv3d(tf.pad(x, margins), kernel, [1] * 5, "SAME")}

    module = Padded()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.convolve})
    volume = np.random.default_rng(1).normal(size=(1, 4, 4, 4, 1)).astype(np.float32)
    expected = tf.nn.conv3d(np.pad(volume, margins), kernel, [1] * 5, "SAME")
    served = servable.Servable("padded", 1, str(tmp_path), servable.LoadOptions())
    signature = served.signatures["serving_default"]
    feeds = {signature.inputs["x"].name: volume}
    [found] = served.run(feeds, [signature.outputs["y"].name])
    served.close()
    assert found.shape == (1, 8, 8, 8, 2)
    np.testing.assert_allclose(found, expected, atol=1e-4)
