"""A fitted detector as a folder that scores with jax and NumPy alone.

`score.py`, `recipe.py` and `resizing.py` are the script that is copied there, and of
ensembles `ensemble.py`; they import nothing of this library.
"""
