"""The demo: the whole agent on a packaged recording, and a view of it."""
