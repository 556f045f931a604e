"""Evaluating: intervals, figures beside baselines, rules on pixels, the report. Knows no data set and no judge."""
