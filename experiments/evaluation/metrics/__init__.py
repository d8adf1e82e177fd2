"""Metrics on plain numbers and labels: classification, ranking, regression, retrieval."""
