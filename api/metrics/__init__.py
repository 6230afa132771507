"""Prometheus metrics: ``hubble_*`` counted from batches, ``ciliary_*`` of the agent itself.

``HubbleMetrics`` counts (``hubble.py``), ``AgentMetrics`` watches the agent (``agent.py``),
``render`` writes both (``exposition.py``), ``serve_http`` hands them out (``http.py``).
"""
