"""Chinese dishes drawn by procedure: a table says what lies on which vessel, and how; `ingredients.tsv` how each looks.

Both tables are data that a cook can mend; see their first lines.
"""
