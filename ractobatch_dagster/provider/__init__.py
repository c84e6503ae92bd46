"""The Batch API behind one small face. The only place that imports `openai` and `anthropic`."""
