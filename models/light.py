"""The U-Net with few channels: under 100,000 parameters, for real time on a CPU.

After the observation of LWNet (arXiv:2009.01907) that 68 thousand parameters are enough to find
vessels in an eye's image: lungs are large, and what is hard about them is seen at low resolution.

94,473 parameters for one label in 2D. Expected Dice on the sample: 0.955 on X-ray lungs (23 test
cases), 0.751 on CT infection (five-fold, 50 slices); see docs/models.md.
"""

import keras

from data_pipeline.spec import InputSpec
from models import unet

WIDTHS = (8, 16, 24, 32, 40)


def build(spec: InputSpec, widths: tuple[int, ...] = WIDTHS) -> keras.Model:
    """Returns a network from (n, *shape, channels) in [0, 1] to (n, *shape, labels) in [0, 1].

    Args and errors are those of models.unet.build.
    """
    return unet.build(spec, widths, name="light")
