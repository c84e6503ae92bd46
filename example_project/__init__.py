"""A Dagster project to run first: real patient reviews of medicines, labelled through the Batch API.

`reviews` reads the text, `labels` says what the model is asked for, `definitions` is the Dagster code, and
`demo` (with `services` and `graphql`) runs all of it the way production does.
"""
