"""What happened lately: flows in columns, and the few events beside them."""

from api.history.history import EventQueue, History, HistoryStatistics, PastEvent
from api.history.ring import FLOW_BYTES, FlowRing

__all__ = ["FLOW_BYTES", "EventQueue", "FlowRing", "History", "HistoryStatistics", "PastEvent"]
