"""DRAEM's networks against the same in torch, at their full width."""

from experiments.benchmarks.baselines import networks
from experiments.configs import draem

SIZE = (256, 1, 128, 64)  # side, batch, first width of either network
SMALL = (32, 2, 4, 4)


def compare(small: bool, rounds: int) -> dict:
    """Returns the timings in scoring and in one training step."""
    side, batch_size, width, judge = SMALL if small else SIZE
    config = draem.get_config()
    config.data.image_size = config.model.texture_size = side
    config.model.reconstruction_width = width
    config.model.discriminator_width = judge
    widths = {"width": width, "discriminator_width": judge}
    return networks.compare(config, "Draem", widths, ("rgb",), batch_size, rounds)
