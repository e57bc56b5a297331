"""Keyword spotting: synthetic speech, a small network in int8, a bundle, and a recording that it listens to."""
