"""Shape-Guided: a network of signed distances, two memories, and the scores of both."""
