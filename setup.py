"""Packaging is declared in pyproject.toml; this serves tools that call setup.py."""

from setuptools import setup

setup()
