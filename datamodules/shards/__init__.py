"""Data sets in shards: tar files as WebDataset has them, Parquet and Arrow as `datasets` writes them.

Every sample stays where it is and is read by itself, in any order: `index` lists where each one lies,
`member` reads it. Nothing is unpacked.
"""
