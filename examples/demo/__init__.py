"""The main job end to end: train, compress, certify, ship, run, break, report. ``edge-sdk demo`` runs it."""
