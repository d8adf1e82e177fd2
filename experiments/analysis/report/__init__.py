"""An analysis as JSON, as terminal tables, and as one HTML page."""
