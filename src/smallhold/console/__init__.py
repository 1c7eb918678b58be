"""The staff's and the patient's pages, and their local API; see `docs/reference/console.md`."""
