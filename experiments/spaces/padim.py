"""PaDiM: which layers, and how many channels are drawn.

python -m experiments.sweep --config=padim:resnet18 \
    --config.weights.backbone=FILE --space=padim --sampler=grid
"""

SPACE = {
    "model.layers": [
        *(["layer1"], ["layer2"]),
        *(["layer1", "layer2"], ["layer2", "layer3"]),
        ["layer1", "layer2", "layer3"],
    ],
    "model.dimensions": [30, 60],
}
