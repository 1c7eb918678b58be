"""Medication, planned and emergency: what is due, what was given, what must not be, and how a patient is reminded."""

from smallhold.assist.medication.board import Administration, DoseRefusedError, MedicationBoard
from smallhold.assist.medication.prescription import Kind, Prescription, Slot, SlotState

__all__ = ["Administration", "DoseRefusedError", "Kind", "MedicationBoard", "Prescription", "Slot", "SlotState"]
