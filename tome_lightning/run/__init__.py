"""One run: its directory, what it goes on from, what is printed of it."""
