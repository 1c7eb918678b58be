"""The job on Substra: functions that carry blobs (`functions`), their plan (`driver`), and processes (`deploy`)."""
