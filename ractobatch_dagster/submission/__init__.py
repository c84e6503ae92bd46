"""What is open and what to do next: state, log, plan, and the engine that does it."""
