"""What ractobatch-dagster costs, measured against ordinary ways and against peers: `python -m benchmarks`."""
