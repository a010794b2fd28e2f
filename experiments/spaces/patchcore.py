"""PatchCore: which layers, how large the patches, how much of the bank is kept.

python -m experiments.sweep --config=patchcore:resnet18 \
    --config.weights.backbone=FILE --space=patchcore --sampler=grid
"""

SPACE = {
    "model.layers": [
        *(["layer1"], ["layer2"], ["layer3"]),
        *(["layer1", "layer2"], ["layer2", "layer3"]),
        ["layer1", "layer2", "layer3"],
    ],
    "model.patch_size": [3, 5],
    "model.fraction": [0.01, 0.02, 0.1],
}
