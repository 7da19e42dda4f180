"""Small pictures of findings as SVG, made from the results alone.

In: results. Out: SVG text that needs no style sheet, script or font, and takes its colours from the page around it.
"""
