"""Training as a job: checked before, tied by hashes, stoppable, and on record afterwards."""
