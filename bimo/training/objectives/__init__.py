"""Objectives: what a stage minimises."""
