"""What becomes of raw data before a model takes it, computed alike in each language.

A file per language, the same names, formulas and errors in each; a description is plain JSON.
Golden tests hold them against each other.
"""
