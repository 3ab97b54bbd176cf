"""Sounds: data sets, reading, transforms, checking."""
