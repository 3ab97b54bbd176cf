"""Videos: data sets, reading, transforms, checking."""
