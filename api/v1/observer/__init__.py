"""Generated from ``api/proto`` by ``python -m tools.generate_stubs``; do not edit."""
