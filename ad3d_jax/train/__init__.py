"""Drivers: data parallelism, training steps, phases, checkpoints and the log."""
