"""The patient's page and its API: on the patient's own device, bound to one patient, useful without a network."""

from smallhold.console.patient.mount import patient_router
from smallhold.console.patient.pairing import Pairings, journalled

__all__ = ["Pairings", "journalled", "patient_router"]
