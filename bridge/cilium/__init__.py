"""Cilium's agent as a source: its monitor socket."""
