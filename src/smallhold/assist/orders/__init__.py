"""Standing orders: signed bounds for a drug, a ledger that survives, a stop that needs nothing, and one way out."""

from smallhold.assist.orders.amount import MICRO, format_amount, parse_amount
from smallhold.assist.orders.book import DoseRequest, OrderBook, OrderStatus, Reading
from smallhold.assist.orders.interactions import Finding, InteractionTable, load_interactions
from smallhold.assist.orders.limits import Dose, limit_reason
from smallhold.assist.orders.order_file import read_order
from smallhold.assist.orders.shelf import Shelf, put_order, put_revocation, read_shelf
from smallhold.assist.orders.signing import (
    Revocation,
    SignedOrder,
    add_signature,
    sign_order,
    sign_revocation,
    verify_order,
    verify_revocation,
)
from smallhold.assist.orders.standing_order import Bound, StandingOrder
from smallhold.assist.orders.stop import is_stopped, resume, stop

__all__ = [
    "MICRO",
    "Bound",
    "Dose",
    "DoseRequest",
    "Finding",
    "InteractionTable",
    "OrderBook",
    "OrderStatus",
    "Reading",
    "Revocation",
    "Shelf",
    "SignedOrder",
    "StandingOrder",
    "add_signature",
    "format_amount",
    "is_stopped",
    "limit_reason",
    "load_interactions",
    "parse_amount",
    "put_order",
    "put_revocation",
    "read_order",
    "read_shelf",
    "resume",
    "sign_order",
    "sign_revocation",
    "stop",
    "verify_order",
    "verify_revocation",
]
