"""BTF without a network: which features, in cells of which size.

python -m experiments.sweep --config=btf:cpu --space=btf --sampler=grid
"""

SPACE = {
    "model.features": ["fpfh", "hog", "sift"],
    "model.cells": [16, 28],
    "model.fraction": [0.02, 0.1],
}
