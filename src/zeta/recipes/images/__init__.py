"""Recipes for images, and for fields in space."""
