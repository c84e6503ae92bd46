"""Other clients for the same job, each in an environment of its own and driven by its own public code path."""
