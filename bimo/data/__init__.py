"""Data: from packages, folders, tables and urls to training batches."""
