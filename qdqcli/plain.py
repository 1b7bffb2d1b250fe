"""Types of plain data: what JSON and TOML files hold. Their schemas say of which kinds the values are."""

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object that is written."""
Parsed = Mapping[str, Any]
"""A table that was read, and checked against its schema."""
