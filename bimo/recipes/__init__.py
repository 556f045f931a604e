"""Recipes of published systems, one short file each: values only, with all numbers from papers."""
