"""The job on Flower: thin apps that carry blobs (`client_app`, `server_app`), and a deployment of them (`deploy`)."""
