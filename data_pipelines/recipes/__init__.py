"""Preprocessing recipes, by name: compositions of a background step and extras."""

from data_pipelines.recipes.ast import AST
from data_pipelines.recipes.base import Applied, Parameters, Recipe, Record, Sample
from data_pipelines.recipes.compose import composed
from data_pipelines.recipes.dsr import DSR
from data_pipelines.recipes.none import NONE
from data_pipelines.recipes.plane import PLANE
from data_pipelines.recipes.points import POINTS

RECIPES = {
    "ast": composed("ast", AST, ("height_normalised",)),
    "dsr": composed(
        *("dsr", DSR, ("depth_normalised",)), image_size=384, interpolation="bilinear"
    ),
    "plane": composed("plane", PLANE),
    "points": POINTS,
    "raw": composed("raw", NONE),
}

__all__ = ["RECIPES", "Applied", "Parameters", "Recipe", "Record", "Sample"]
