"""Where names come from: a static file now."""
