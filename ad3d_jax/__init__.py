"""RGB-D industrial anomaly detection in JAX: every system behind one interface."""

__version__ = "0.1.0"
