"""The job on NVFlare: parts that carry blobs (`client_app`, `server_app`), who submits it (`operator`), `deploy`."""
