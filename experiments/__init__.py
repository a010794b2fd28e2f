"""Command lines: fit and evaluate, predict, benchmark."""
