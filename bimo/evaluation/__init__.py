"""Evaluating: suites of prompts, drawing them, metrics, judges, protocol records, intervals, reports."""
