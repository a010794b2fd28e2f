"""What the makers of anomalies return, and systems train on."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Anomalies(NamedTuple):
    """Clean samples, what the networks see of them in training, and the truth."""

    clean: Mapping[str, jax.Array]  # modality -> [B,H,W,C] float32
    altered: Mapping[str, jax.Array]  # likewise
    mask: jax.Array  # [B,H,W,1] float32, 1 = altered in some modality
    foreground: jax.Array | None = None  # [B,H,W,1], where anomalies may be
    cases: Mapping[str, jax.Array] | None = None  # modality -> [B], 0: as it was

    def area(self) -> jax.Array:
        """Returns the share of each sample that is altered, [B]."""
        return jnp.mean(self.mask, axis=(1, 2, 3))
