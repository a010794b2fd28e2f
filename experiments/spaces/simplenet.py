"""SimpleNet: noise, learning rates and how long it trains.

python -m experiments.sweep --config=simplenet:cpu \
    --config.weights.backbone=FILE --space=simplenet \
    --trials=40 --workers=2
"""

SPACE = {
    "hyper.noise": {"low": 0.003, "high": 0.1, "log": True},
    "hyper.learning_rate_adaptor": {"low": 1e-5, "high": 1e-3, "log": True},
    "hyper.learning_rate_discriminator": {"low": 5e-5, "high": 2e-3, "log": True},
    "model.noise_levels": {"low": 1, "high": 3},
    "model.epochs": [10, 20, 40],
}
