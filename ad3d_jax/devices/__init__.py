"""Where arrays lie: engines, compilation, processes and memory."""
