"""What every long job has in common: its record, its log, its preflight, and how it stops."""
