"""TOML files and `--set a.b=c` become frozen, validated objects. Knows no key: every section has its owner above."""

from gptcli.config.base import Config
from gptcli.config.load import RawConfig, check_keys, dump_toml, merge, parse_assignment, read_toml, validate

__all__ = ["Config", "RawConfig", "check_keys", "dump_toml", "merge", "parse_assignment", "read_toml", "validate"]
