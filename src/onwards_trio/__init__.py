"""The gateway as a server on Trio: `python -m onwards_trio`."""
