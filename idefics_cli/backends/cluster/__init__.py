"""Workers on the machines of a Ray cluster. Ray is imported only here, and only when a cluster is used."""
