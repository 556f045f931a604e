"""Procedurally drawn Chinese dishes. `dishes.tsv` has each dish's ingredients, vessels and arrangement,
`ingredients.tsv` the appearance of ingredients; their first lines document the columns.
"""
