"""Names from the API server: credentials, transport, watches, objects."""
