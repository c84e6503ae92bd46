"""From output and error files to a table: read, classified, typed, priced."""
