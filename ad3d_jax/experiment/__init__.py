"""The top floor: a run, a fitted detector, grids of cells and their tables, studies."""

import os

# TensorFlow only reads data here; it would greet at import and tell of its kernels.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
