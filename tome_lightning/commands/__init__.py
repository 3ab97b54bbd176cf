"""The verbs that are not Lightning's, one module each: `main(argv)` returns the exit code."""
