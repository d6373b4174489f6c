"""Which models there are. To add one: a file and a line here."""

from models import cnn, light, threshold, unet

NETWORKS = {  # trained and exported; each builds a keras.Model from an InputSpec
    "unet": unet.build,
    "unet_residual": unet.residual,
    "light": light.build,
    "cnn": cnn.build,
}
CLASSICAL = {  # nothing to train; each is a Segmenter, made from an InputSpec
    "threshold": threshold.Threshold,
}
