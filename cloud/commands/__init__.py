"""Commands of the cloud side; each parses, calls one function, prints."""
