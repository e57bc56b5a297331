"""Commands of the device side; each parses, calls one function, prints."""
