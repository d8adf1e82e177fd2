"""The pure domain: assignment, events, statistics, decisions. Knows neither Ray nor HTTP."""
