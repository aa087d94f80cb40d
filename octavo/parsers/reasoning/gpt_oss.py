"""gpt-oss: its one parser serves tools and reasoning, so importing it registers both."""

from octavo.parsers.tools.gpt_oss import Harmony

__all__ = ["Harmony"]
