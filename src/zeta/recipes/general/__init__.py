"""Recipes for networks of any kind."""
