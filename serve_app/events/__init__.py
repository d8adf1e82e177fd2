"""Getting events from gateways to the event store: one writer actor per node, and its client."""
