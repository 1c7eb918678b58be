"""What other systems read of a ward: FHIR resources, CDS Hooks cards, HL7 v2 alarms, an IEEE 11073 SDC device.

Codes of a sector come in through `terms.Terms`; nothing here names a disease or a drug.
"""
