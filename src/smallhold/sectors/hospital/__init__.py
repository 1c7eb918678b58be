"""The hospital: parameters, units, early-warning scores, stays real and simulated, and the task `icu-risk`."""
