"""native_probes."""
