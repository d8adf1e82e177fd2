"""Model replicas: verified files, loaded engines, hot swaps, the Serve deployment around them."""
