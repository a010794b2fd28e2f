"""Hyperparameter studies on Optuna's relational storage."""
