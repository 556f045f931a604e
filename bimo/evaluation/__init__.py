"""Evaluation: prompt suites, drawing them, metrics, judges, protocol records, intervals, reports."""
