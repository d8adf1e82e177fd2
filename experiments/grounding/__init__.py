"""Answers that say of vehicles only what the inventory in their prompt says."""
