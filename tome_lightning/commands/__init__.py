"""The verbs, a folder or a file each; those around training. `fit` and its like are Lightning's.

A verb's ``main(argv)`` takes the words after the verb and returns an exit code, None for 0. A user's
mistake is raised: a `UsageError`, or what `recipes`, `checkpoints`, `datamodules` and `tome` raise.
"""
