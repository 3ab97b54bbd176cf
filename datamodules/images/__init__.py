"""Pictures: data sets, reading, transforms, checking."""
