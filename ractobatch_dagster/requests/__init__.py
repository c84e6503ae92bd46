"""From a DataFrame to input files: checked, rendered, encoded, cut within the limits."""
