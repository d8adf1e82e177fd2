"""Moves the splits of adaptive experiments: joins event log, deployable config and gateways."""
