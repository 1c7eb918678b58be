"""Where readings come from: sources bring them into one bounded inbox, from which the ward takes them."""

from smallhold.assist.sources.inbox import Inbox, InboxStatus
from smallhold.assist.sources.source import Source, SourceStatus

__all__ = ["Inbox", "InboxStatus", "Source", "SourceStatus"]
