"""CFM on light features: which layers, how both distances are joined, how long.

python -m experiments.sweep --config=cfm:resnet18_fpfh \
    --config.weights.backbone=FILE --space=cfm --sampler=grid
"""

SPACE = {
    "model.layers": [["layer2", "layer3"], ["layer1", "layer2"]],
    "model.aggregation": ["product", "sum", "max", "min"],
    "model.epochs": [5, 50],
}
