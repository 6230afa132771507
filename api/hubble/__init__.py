"""The Hubble API: flows as messages, filters, and the service behind any gRPC engine."""
