"""Drives canaries: joins the event log, the deployable config and the running gateways."""
