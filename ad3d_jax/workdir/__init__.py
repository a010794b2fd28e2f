"""The one home of a run's files: their names, how they are written and read."""
