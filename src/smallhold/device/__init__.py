"""What every device needs: trust, install, the journal, and the runtimes (`backends`)."""
