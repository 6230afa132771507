"""bridge/cli."""
