"""Preprocessing recipes, by name."""

from data_pipelines.recipes.ast import AST
from data_pipelines.recipes.base import Applied, Parameters, Recipe, Record, Sample
from data_pipelines.recipes.dsr import DSR
from data_pipelines.recipes.plane import PLANE
from data_pipelines.recipes.raw import RAW

RECIPES = {"ast": AST, "dsr": DSR, "plane": PLANE, "raw": RAW}

__all__ = ["RECIPES", "Applied", "Parameters", "Recipe", "Record", "Sample"]
