"""What carries a federated job between server and sites, one file an engine; `in_process` is the oracle."""
