"""The one home of a run's files."""
