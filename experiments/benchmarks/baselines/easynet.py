"""EasyNet's networks against the same in torch, at their full width.

At 128 pixels: an image of 256 costs 464 GMAC forward.
"""

from experiments.benchmarks.baselines import networks
from experiments.configs import easynet

SIZE = (128, 1, 128, 512)  # side, batch, first width, width of the perceptrons
SMALL = (32, 2, 4, 8)


def compare(small: bool, rounds: int) -> dict:
    """Returns the timings in scoring and in one training step."""
    side, batch_size, width, mlp_width = SMALL if small else SIZE
    config = easynet.get_config()
    config.data.image_size = config.model.texture_size = side
    config.model.width, config.model.mlp_width = width, mlp_width
    widths = {"width": width, "mlp_width": mlp_width}
    return networks.compare(
        config, "EasyNet", widths, ("rgb", "depth"), batch_size, rounds
    )
