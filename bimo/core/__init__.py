"""Plain data: parts, recipes, requests, pictures, errors. Imports nothing else of the project."""
