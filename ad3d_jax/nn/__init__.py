"""Network modules, one architecture a file; the only importers of flax.linen."""
