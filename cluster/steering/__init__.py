"""Moves splits on a cluster: joins event log, deployable config and running gateways."""
