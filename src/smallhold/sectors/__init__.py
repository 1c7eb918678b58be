"""One folder a sector: task, data adapter, units, floor scores; and the split and the data folders that all share."""
