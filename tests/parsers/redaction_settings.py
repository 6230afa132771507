"""Redaction as the recorded settings name it, by way of the configuration."""

from __future__ import annotations

from typing import Any

from bridge.config import Config, parse_config
from parsers.redaction import Redaction


def config_of(redact: dict[str, Any]) -> Config:
    return parse_config({"hubble": {"redact": redact}}, {})


def redaction_of(setting: dict[str, Any]) -> Redaction:
    """Settings as the agent's options have them."""
    lists = {
        name: setting[f"http-headers-{name}"]
        for name in ("allow", "deny")
        if f"http-headers-{name}" in setting
    }
    http = {
        "url_query": setting["http-urlquery"],
        "user_info": setting["http-userinfo"],
        "headers": lists,
    }
    kafka = {"api_key": setting["kafka-apikey"]}
    return config_of({"enabled": True, "http": http, "kafka": kafka}).hubble.redact.redaction
