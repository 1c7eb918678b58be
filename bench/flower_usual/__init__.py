"""The job `icu-risk` as Flower's own guides write one: everything in the apps, `FedAvg` at the server."""
